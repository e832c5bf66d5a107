"""What mkdocs calls while it builds the documentation; see mkdocs.yml.

- adds the pages that are made from the code (`tools/pages.py`) and the texts that lie outside
  docs/: CONTRIBUTING.md, CHANGELOG.md, benchmarks/README.md;
- turns links to other files of the repository into links to pages of their text, so that
  `../samples/custom.py` works here as on a code host;
- turns `mrcnn.module.name` and the names of settings into links;
- gives docstrings to mkdocstrings as Markdown.

Whatever can't be found is a warning, and `mkdocs build --strict` fails.
"""

import json
import logging
import os
import pathlib
import posixpath
import re
import sys

import griffe
from mkdocs.structure.files import File

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import pages  # noqa: E402

logger = logging.getLogger("mkdocs.hooks")

# Texts outside docs/ that are pages, by the page that they become.
INCLUDED = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks.md": "benchmarks/README.md",
}
LANGUAGES = {".py": "python", ".sh": "bash", ".toml": "toml", ".yml": "yaml", ".json": "json"}


# ---- Pages ---------------------------------------------------------------------------------------


def on_config(config):
    """Puts the reference into the place that mkdocs.yml leaves for it."""
    reference = [{"Overview": "reference/index.md"}]
    for title, names in pages.rooms().items():
        reference.append({title: [{f"mrcnn.{name}": f"reference/{name}.md"} for name in names]})
    for entry in config.nav:
        if "API reference" in entry:
            entry["API reference"] = reference
    return config


def on_files(files, config):
    """Adds the pages that lie in no file of docs/, and those of the files that pages link to."""
    texts = {"settings.md": pages.settings_page(), "reference/index.md": pages.reference_index()}
    for name in pages.modules():
        texts[f"reference/{name}.md"] = pages.reference_page(name)
    for page, source in INCLUDED.items():
        texts[page] = (pages.ROOT / source).read_text(encoding="utf-8")
    for name, text in texts.items():
        files.append(File.generated(config, name, content=text))
    for source in sorted(_linked_sources(files)):
        files.append(File.generated(config, _source_page(source), content=_source_text(source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files of the repository, to the reference and to settings."""
    if page.file.src_uri.startswith(("reference/", "files/")):
        return markdown
    parts = re.split(r"(^(?:```|~~~).*?^(?:```|~~~)$)", markdown, flags=re.M | re.S)
    # The settings page has its links; a list of changes names what is no longer there.
    names = page.file.src_uri not in ("settings.md", "changelog.md")
    for i, part in enumerate(parts):
        if not part.startswith(("```", "~~~")):
            parts[i] = _with_links(part, page.file, names)
    return "".join(parts)


def _with_links(text, file, names):
    text = LINK.sub(lambda match: f"{match[1]}({_target(match[2], file)})", text)
    if names:
        return _with_names(text)
    return text


# ---- Links ---------------------------------------------------------------------------------------

LINK = re.compile(r"(!?\[[^\]]*\])\((?!\w+:|#)([^)\s]+)\)")


def _place(file):
    """Folder of a page's text in the repository."""
    source = INCLUDED.get(file.src_uri, f"docs/{file.src_uri}")
    return posixpath.dirname(source)


def _in_repository(link, file):
    """The file of the repository that a link means, without its #anchor."""
    return posixpath.normpath(posixpath.join(_place(file), link.partition("#")[0]))


def _source_page(source):
    return f"files/{source}.md"


def _source_text(source):
    """A page of a file's text; of a notebook, its cells without their outputs."""
    path = pages.ROOT / source
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        body = "\n\n".join(_cell(cell) for cell in json.loads(text)["cells"])
    else:
        body = f"# {source}\n\n{_fenced(text, LANGUAGES.get(path.suffix, 'text'))}"
    return f"---\ntitle: {source}\nsearch:\n  exclude: true\n---\n\n{body}\n"


def _cell(cell):
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return text
    return _fenced(text, "python")


def _fenced(text, language):
    return f"~~~{language}\n{text.rstrip()}\n~~~"


def _linked_sources(files):
    """Files outside docs/ that some page links to."""
    sources = set()
    for file in files:
        if file.is_documentation_page() and file.src_uri.split("/")[0] != "reference":
            for _, link in LINK.findall(file.content_string):
                source = _in_repository(link, file)
                path = pages.ROOT / source
                if not source.startswith("docs/") and path.is_file():
                    sources.add(source)
    return sources - set(INCLUDED.values())


def _target(link, file):
    """The link of a page to what stands in the site for a file of the repository."""
    source = _in_repository(link, file)
    anchor = link.partition("#")[1:]
    names = {text: page for page, text in INCLUDED.items()}
    path = pages.ROOT / source
    if source in names:
        page = names[source]
    elif source.startswith("docs/"):
        page = source.removeprefix("docs/")
    elif path.is_file():
        page = _source_page(source)
    else:
        logger.warning("%s links to %s, which is no file of the repository", file.src_uri, link)
        return link
    return os.path.relpath(page, posixpath.dirname(file.src_uri) or ".") + "".join(anchor)


def _with_names(text):
    """`mrcnn.module.name` and `SETTING`, in code, as links; not inside of other links."""
    parts = re.split(r"(!?\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])|^#.*$)", text, flags=re.M)
    for i, part in enumerate(parts):
        if not part.startswith(("[", "![", "#")):
            parts[i] = re.sub(r"`([^`\n]+)`", _linked, part)
    return "".join(parts)


def _linked(match):
    code = match[1]
    path = re.fullmatch(r"mrcnn\.(\w+(?:\.\w+)*)(?:\(\))?", code)
    if path and path[1].split(".")[0] in pages.modules():
        return f"[`{code.removeprefix('mrcnn.')}`][mrcnn.{path[1]}]"
    setting = re.match(r"([A-Z][A-Z0-9_]+)(?=$| ?=)", code)
    if setting and setting[1] in pages.settings_by_name():
        return pages.setting_link(setting[1], code)
    return match[0]


# ---- Docstrings ----------------------------------------------------------------------------------


class Docstrings(griffe.Extension):
    """Gives the package's docstrings to mkdocstrings as Markdown."""

    def on_package(self, *, pkg, **kwargs):
        """Called when the whole package has been read."""
        self._visit(pkg)

    def _visit(self, item):
        if item.is_alias:
            return
        if item.docstring:
            item.docstring.value = pages.docstring_page(item.docstring.value, item.path)
        for member in item.members.values():
            self._visit(member)
