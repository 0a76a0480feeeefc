"""What mkdocs needs to make a site of docs/, whose pages are written for GitHub.

It adds pages for files outside docs/ and the flags of every command, and reads anchors and lists as GitHub does.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import posixpath
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)")
ITEM = re.compile(r" {0,3}(?:[-*+]|\d+\.) +(?=\S)")
FENCE = re.compile(r"\s*(`{3,})")
FLAGS = "<!-- the flags of every command -->"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Anchors are those of GitHub, where the same pages are read."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each file of the repository that a page links to, and for those that these link to."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    while waiting:
        source = waiting.pop()
        for target in _targets(source):
            place = _place(target)
            if target.startswith("docs/") or files.get_file_from_path(place) or not (ROOT / target).exists():
                continue  # mkdocs itself names a link that leads nowhere
            files.append(File.generated(config, place, content=_page_of(target)))
            if target.endswith((".md", ".ipynb")):
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between places in the repository into links between pages, and fills in the flags."""
    here = page.file.src_uri
    source = here.removeprefix("repository/") if here.startswith("repository/") else f"docs/{here}"

    def moved(match: re.Match[str]) -> str:
        target = _place(posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2])))
        return match[1] + posixpath.relpath(target, posixpath.dirname(here) or ".")

    text = _indented_by_four(LINK.sub(moved, markdown))
    return text.replace(FLAGS, "\n\n".join(_flags())) if FLAGS in text else text


def _indented_by_four(markdown: str) -> str:
    """What belongs to a list's item starts under the item's text on GitHub, and after four spaces in Python-Markdown.

    There, an item whose predecessor holds several paragraphs also needs an empty line before it.
    """
    lines: list[str] = []
    items: list[int] = []  # columns where the text of the open items starts
    fence, loose = "", False
    for line in markdown.splitlines():
        indent = len(line) - len(line.lstrip())
        while line.strip() and not fence and items and indent < items[-1]:
            items.pop()
        start = items[-1] if items else 0
        item = None if fence else ITEM.match(line[start:])
        loose = loose or not line.strip()
        if item:
            if loose and lines and lines[-1]:
                lines.append("")
            loose = False
        lines.append("    " * len(items) + line[start:] if line.strip() else "")
        found = FENCE.match(line)
        if found and not fence:
            fence = found[1]
        elif found and line.strip() == fence:
            fence = ""
        elif item:
            items.append(start + item.end())
    return "\n".join(lines)


def _targets(source: str) -> Iterator[str]:
    text = (ROOT / source).read_text(encoding="utf-8")
    for match in LINK.finditer(text):
        yield posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))


def _place(target: str) -> str:
    """Where a file of the repository is in the site, as mkdocs names sources."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"repository/{target}" if target.endswith(".md") else f"repository/{target}.md"


def _page_of(target: str) -> str:
    path = ROOT / target
    if path.is_dir():
        names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
        return f"# {target}\n\n" + "\n".join(f"- `{name}`" for name in names if "__pycache__" not in name)
    text = path.read_text(encoding="utf-8")
    if target.endswith(".ipynb"):
        return "\n\n".join(_cell(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"])
    return text if target.endswith(".md") else f"# {target}\n\n````{path.suffix[1:]}\n{text}\n````\n"


def _cell(kind: str, source: str) -> str:
    """A cell of a notebook as Markdown."""
    if kind == "markdown":
        return source
    return f"```{'bash' if source.startswith('%%bash') else 'python'}\n{source}\n```"


def _flags() -> Iterator[str]:
    """A section a command: what `--help` prints, which is made from its argparse."""
    sys.path.insert(0, str(ROOT))
    from llava.commands import COMMANDS

    for title, commands in COMMANDS.items():
        yield f"## To {title}"
        for command in commands:
            yield f"### llava {command.name}\n\n{command.help[0].upper()}{command.help[1:]}.\n"
            yield f"```text\n{_help(command.name, command.module)}\n```"


def _help(name: str, module: str) -> str:
    found = import_module(module)
    if hasattr(found, "__path__"):
        found = import_module(f"{module}.__main__")
    said = io.StringIO()
    before, width = sys.argv, os.environ.get("COLUMNS")
    sys.argv, os.environ["COLUMNS"] = [f"llava {name}", "--help"], "100"
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            found.main()
    finally:
        sys.argv = before
        os.environ.pop("COLUMNS") if width is None else os.environ.update(COLUMNS=width)
    if not said.getvalue().startswith("usage:"):
        raise RuntimeError(f"`llava {name} --help` printed no help")
    return said.getvalue().rstrip()
