"""Reads settings from a module's source code: their comments, and their defaults as written.

    for group in groups(pathlib.Path("mrcnn/config.py")):
        print(group.defaults, group.text)

The module is parsed, not imported. The documentation's settings page and `mrcnn settings` are
generated from this. Only the standard library is needed.
"""

import ast
import dataclasses
import functools
import io
import pathlib
import re
import tokenize


@dataclasses.dataclass
class Group:
    """Settings that share one comment.

    Attributes:
        section: title of their section of `Config`.
        text: lines of the comment.
        defaults: {name: source code of the default}.
    """

    section: str
    text: list[str]
    defaults: dict[str, str]


@functools.cache
def tree(path: pathlib.Path) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _lines(path: pathlib.Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def source(path: pathlib.Path, node: ast.expr) -> str:
    """A node's source code. (`ast.get_source_segment` splits the whole file in each call.)"""
    assert node.end_lineno is not None
    lines = _lines(path)[node.lineno - 1 : node.end_lineno]
    lines[-1] = lines[-1][: node.end_col_offset]
    lines[0] = lines[0][node.col_offset :]
    return b"\n".join(lines).decode()


@functools.cache
def comments(path: pathlib.Path) -> dict[int, tuple[str, bool]]:
    """{line number: (text of the comment, whether it is alone on the line)}."""
    by_line = {}
    text = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            by_line[token.start[0]] = (re.sub(r"^# ?", "", token.string), alone)
    return by_line


def assigned(node: ast.stmt) -> list[tuple[str, ast.expr]]:
    """[(name, node of the value)] of an assignment of settings; tuples are unpacked."""
    targets: list[ast.expr] = []
    value = None
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
        value = node.value
    elif isinstance(node, ast.Assign):
        targets = node.targets
        value = node.value
    if value is None:
        return []
    pairs = []
    for target in targets:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for element, part in zip(target.elts, value.elts):
                if isinstance(element, ast.Name):
                    pairs.append((element.id, part))
        elif isinstance(target, ast.Name):
            pairs.append((target.id, value))
    return [(name, value) for name, value in pairs if name.isupper() and name[0] != "_"]


def config_class(path: pathlib.Path) -> ast.ClassDef:
    """The class `Config` of a module.

    Raises:
        ValueError: the module has no such class.
    """
    for node in tree(path).body:
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            return node
    raise ValueError(f"{path} has no class Config")


@functools.cache
def groups(path: pathlib.Path) -> list[Group]:
    """The settings of `Config` in source order."""
    comment_of_line = comments(path)
    section = ""
    all_groups: list[Group] = []
    end = config_class(path).lineno
    for node in config_class(path).body:
        text: list[str] = []
        for number in range(end + 1, node.lineno):
            if number in comment_of_line:
                line, alone = comment_of_line[number]
                title, line = _banner(line)
                section = title or section
                if alone and line.strip():
                    text += line.splitlines()
        last = node.end_lineno or node.lineno
        trailing = comment_of_line.get(last)
        if trailing and not trailing[1]:
            text.append(trailing[0])
        defaults = {name: source(path, value) for name, value in assigned(node)}
        if defaults and (text or not all_groups or node.lineno > end + 1):
            all_groups.append(Group(section, text, defaults))
        elif defaults:
            all_groups[-1].defaults.update(defaults)
        end = last
    return all_groups


def _banner(line: str) -> tuple[str, str]:
    """(title, "") for a banner such as `---- Input ---`; ("", line) for any other line.

    If a formatter joined lines, a comment may follow the dashes of a banner, and a list a colon.
    """
    if match := re.match(r"---- (.+?)\s*-*$", line):
        return match[1], ""
    line = re.sub(r"^-{8,}\s*", "", line)
    return "", re.sub(r":\s{3,}(\w+)\s{3,}", r":\n  \1   ", line)


@functools.cache
def derived(path: pathlib.Path) -> dict[str, str]:
    """{name: docstring} of the derived settings, which are properties."""
    docstrings = {}
    for node in config_class(path).body:
        if isinstance(node, ast.FunctionDef) and node.name.isupper():
            marks = [mark.id for mark in node.decorator_list if isinstance(mark, ast.Name)]
            if "property" in marks:
                docstrings[node.name] = ast.get_docstring(node) or ""
    return docstrings
