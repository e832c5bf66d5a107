"""Figures of the code's structure: python tools/structure.py [folder ...]

For each file: code lines, tokens a code line, conditional expressions and tuple assignments in
1,000 code lines, lines over 100 columns and the share of public functions whose arguments and
result are annotated. Then the longest functions, circles among the imports of the package's
modules, and private names that a module uses of another one. Docstrings and comments don't count.
"""

import ast
import io
import pathlib
import sys
import tokenize
from collections.abc import Iterator

NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
# Conditions of what is not run when a module is imported.
NOT_WHEN_IMPORTED = ("TYPE_CHECKING", "__name__ == '__main__'")


def docstring_lines(tree: ast.Module) -> set[int]:
    """Numbers of the lines that docstrings take."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body or not isinstance(body[0], ast.Expr):
            continue
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            lines.update(range(value.lineno, value.end_lineno + 1))
    return lines


def functions_of(tree: ast.Module) -> list[tuple[str, int, bool, bool]]:
    """(name, lines of its body without docstring, is public, is annotated) of each function."""
    functions = []

    def visit(node, prefix, public):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                visit(child, f"{prefix}{child.name}.", public and not child.name.startswith("_"))
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                first = child.body[0]
                if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                    start = first.end_lineno
                else:
                    start = first.lineno - 1
                arguments = [*child.args.posonlyargs, *child.args.args, *child.args.kwonlyargs]
                arguments = [a for a in arguments if a.arg not in ("self", "cls")]
                annotated = all(a.annotation is not None for a in arguments) and (
                    child.returns is not None or child.name == "__init__"
                )
                is_public = public and not child.name.startswith("_")
                functions.append(
                    (prefix + child.name, child.end_lineno - start, is_public, annotated)
                )
                visit(child, f"{prefix}{child.name}.", False)
            else:
                visit(child, prefix, public)

    visit(tree, "", True)
    return functions


def figures_of(path: pathlib.Path) -> dict:
    """The figures of one file."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    docstrings = docstring_lines(tree)
    lines: set[int] = set()
    tokens = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in NOT_CODE or token.start[0] in docstrings:
            continue
        lines.add(token.start[0])
        tokens += 1
    nodes = list(ast.walk(tree))
    return {
        "lines": len(lines),
        "tokens": tokens,
        "conditional": sum(isinstance(node, ast.IfExp) for node in nodes),
        "tuples": sum(
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Tuple)
            and isinstance(node.value, ast.Tuple)
            for node in nodes
        ),
        "wide": sum(len(line) > 100 for line in text.splitlines()),
        "functions": functions_of(tree),
    }


def imports_of(path: pathlib.Path, package: str) -> set[str]:
    """Modules of the package that a file imports, inside functions too.

    Not what it imports for types alone, nor what it does as a program: then it is no module, and
    nothing imports it.
    """
    names: set[str] = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package + "."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names.update(
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith(package + ".")
            )
    return names


def foreign_private_names(path: pathlib.Path, package: str) -> list[str]:
    """Private names of the package's other modules that a file uses, "module._name"."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules: dict[str, str] = {}
    names: list[str] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.module == package:
            modules.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif node.module.startswith(package + "."):
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            names += [f"{node.module.split('.')[1]}.{name}" for name in private]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            is_private = node.attr.startswith("_") and not node.attr.startswith("__")
            if is_private and node.value.id in modules:
                names.append(f"{modules[node.value.id]}.{node.attr}")
    return sorted(set(names))


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements in a module or another statement that are run when it is imported or used."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, field, ()):
            if isinstance(child, ast.If) and ast.unparse(child.test) in NOT_WHEN_IMPORTED:
                continue
            yield child
            yield from statements(child)


def circles_of(folder: pathlib.Path) -> list[list[str]]:
    """Sets of modules that import each other, directly or through others."""
    modules = {path.stem: path for path in folder.glob("*.py") if path.stem != "__init__"}
    reached = {
        name: imports_of(path, folder.name) & modules.keys() for name, path in modules.items()
    }
    for _ in modules:
        for names in reached.values():
            names.update(*[reached[name] for name in set(names)])
    circles = {
        tuple(sorted(other for other in names if name in reached[other] and other in reached[name]))
        for name, names in reached.items()
        if name in names
    }
    return [list(circle) for circle in sorted(circles)]


def main(folders: list[str]) -> None:
    total = {"lines": 0, "tokens": 0, "conditional": 0, "tuples": 0, "wide": 0, "functions": []}
    header = f"{'file':32} {'lines':>6} {'tokens':>7} {'if-else':>8} {'tuples':>7} {'wide':>5}"
    print(header + "  annotated public functions")
    for folder in folders:
        for path in sorted(pathlib.Path(folder).rglob("*.py")):
            figures = figures_of(path)
            total = {key: total[key] + figures[key] for key in total}
            print_row(str(path), figures)
    print_row("all", total)
    print("\nlongest functions")
    longest = sorted(total["functions"], key=lambda function: -function[1])
    for name, lines, _, _ in longest[:10]:
        print(f"  {name:48} {lines:4} lines")
    for folder in folders:
        if (pathlib.Path(folder) / "__init__.py").exists():
            circles = circles_of(pathlib.Path(folder))
            print(f"\ncircles of imports in {folder}: {circles or 'none'}")
    private = [
        f"{path}: {name}"
        for folder in folders
        for path in sorted(pathlib.Path(folder).rglob("*.py"))
        for name in foreign_private_names(path, "mrcnn")
    ]
    print("\nprivate names of the package's modules in others:", *private or ["none"], sep="\n  ")


def print_row(name: str, figures: dict) -> None:
    thousands = max(figures["lines"], 1) / 1000
    public = [annotated for _, _, is_public, annotated in figures["functions"] if is_public]
    print(
        f"{name:32} {figures['lines']:6} {figures['tokens'] / max(figures['lines'], 1):7.1f} "
        f"{figures['conditional'] / thousands:8.1f} {figures['tuples'] / thousands:7.1f} "
        f"{figures['wide']:5}  {sum(public)} of {len(public)}"
    )


if __name__ == "__main__":
    main(sys.argv[1:] or ["mrcnn"])
