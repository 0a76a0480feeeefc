"""What the pages of docs/ show is run, or says in its first line what it needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from llava.commands import find_command
from tests.checkout import link_checkout
from tests.test_readme import ROOT, blocks, run

PAGES = sorted((ROOT / "docs").glob("*.md"))
NEEDS = "# needs "
HERE = (
    *("adaptive", "add_a_compressor", "analysis", "api", "checkpoints", "commands", "compare", "compression", "data"),
    *("doctor", "evaluation", "inside_the_language_model", "install", "methods", "migration", "own_questions"),
    *("serving", "store", "tour"),
)
ELSEWHERE = {
    "index": "tests/test_readme.py",  # the same blocks as the README, as a test below says
    "add_a_task": "tests/eval/test_own_task.py",
    "add_a_family": "tests/kinds/test_own_compressor.py",
    "add_a_language_model": "tests/kinds/test_own_compressor.py",
    "add_a_tower": "tests/kinds/test_own_compressor.py",
    "kits": "tests/eval/test_kit_wrappers.py",
    "release": "tests/hub/test_release.py",
}
DATA = "playground/tiny/make_data.py --train 120 --align 1 --scenes 12 --vqa 40 --pope 20"
SMALLER = (
    (r"playground/tiny/make_data\.py(?= *(#.*)?$)", DATA),
    (r"--limit \d{3,}", "--limit 40"),
    (r"--tasks all\b", "--tasks all --limit 2"),
    (r"--fail-under 0\.98", "--fail-under 0.1"),  # of so few questions more may be lost
)
"""What keeps a page's commands short here, with the data of `checkout`."""
INDENTED_COMMAND = re.compile(
    r"^\n {4,}(?:llava|python|bash|pip|make|torchrun|accelerate|export|from|import|[A-Z_]+=\S+) .*$", re.MULTILINE
)
FLAG = re.compile(r"(?<!\S)--[a-zA-Z][\w-]*")
FILE = re.compile(r'^"""(\w+\.py):')


def shown(page: str) -> list[tuple[str, str]]:
    """The blocks of a page that hold programs: language and text."""
    return [block for block in blocks(f"docs/{page}.md") if block[0] in {"bash", "python"}]


def runnable(page: str) -> list[tuple[str, str]]:
    return [(language, text) for language, text in shown(page) if not text.startswith(NEEDS)]


def test_every_block_is_run_or_says_what_it_needs() -> None:
    assert {page.stem for page in PAGES if runnable(page.stem)} == {*HERE, *ELSEWHERE}
    for page, test in ELSEWHERE.items():
        named = page == "index" or page in (ROOT / test).read_text(encoding="utf-8")
        assert named, f"{test} does not run docs/{page}.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_command_hides_outside_a_block(page: Path) -> None:
    text = re.sub(r"^ *(`{3,}).*?^ *\1$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert INDENTED_COMMAND.findall(text) == []
    assert INDENTED_COMMAND.search("see\n\n    llava eval --limit 4\n")


def test_the_first_screen_shows_what_the_readme_shows() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"```{language}\n{text}```" in readme for language, text in runnable("index"))


def commands_in(text: str) -> list[tuple[str, list[str]]]:
    """The `llava NAME` calls of a shell block and the flags of each."""
    lines = re.sub(r" *\\\n *", " ", text).splitlines()
    calls = [re.split(r"&&|\||;", line.partition(" #")[0])[0].split() for line in lines]
    return [(words[1], FLAG.findall(" ".join(words))) for words in calls if words[:1] == ["llava"] and len(words) > 1]


def test_flags_of_blocks_that_are_not_run_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needing = [text for page in PAGES for _, text in shown(page.stem) if text.startswith(NEEDS)]
    calls = [call for text in needing for call in commands_in(text)]
    helps: dict[str, str] = {}
    for name, flags in calls:
        command = find_command(name)
        assert command is not None, name
        if name not in helps:
            module = import_module(command.module)
            program = import_module(f"{command.module}.__main__") if hasattr(module, "__path__") else module
            monkeypatch.setattr(sys, "argv", [f"llava {name}", "--help"])
            with pytest.raises(SystemExit):
                program.main()
            helps[name] = capsys.readouterr().out.replace("_", "-")
        unknown = [flag for flag in flags if flag.replace("_", "-") not in FLAG.findall(helps[name])]
        assert unknown == [], name
    assert len(calls) >= 15 and len(helps) >= 8


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository by links, with small data of its own, so that what a page writes does not land in it."""
    root = link_checkout(tmp_path_factory.mktemp("checkout"))
    (root / ".venv").symlink_to(sys.prefix)
    subprocess.run([sys.executable, *DATA.split()], cwd=root, check=True, capture_output=True)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("page", HERE)
def test_a_page_runs_from_top_to_bottom(page: str, checkout: Path) -> None:
    programs = runnable(page)
    python = ""
    for text in (text for language, text in programs if language == "python"):
        if named := FILE.match(text):  # a file of the reader's own
            (checkout / named[1]).write_text(text, encoding="utf-8")
        else:
            python += text
    commands = "".join(text for language, text in programs if language == "bash")
    for pattern, small in SMALLER:
        commands = re.sub(pattern, small, commands, flags=re.MULTILINE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for language, text in (("bash", commands), ("python", python)):
        if text:
            run(language, text, cwd=checkout, PATH=path, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES="")
