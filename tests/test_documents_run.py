"""What the pages of docs/ show is run, or says that it needs weights."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_readme import ROOT, run

BLOCK = re.compile(r"^( *)```(bash|python)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
HERE = (
    *("adaptive", "analysis", "checkpoints", "compare", "compression", "doctor", "evaluation", "install", "migration"),
    *("inside_the_language_model", "store"),
)
PYTHON_ONLY = {"evaluation"}
"""The whole suite in its commands takes many minutes."""
ELSEWHERE = {
    "index": "tests/test_readme.py",  # the same blocks as the README, as a test below says
    "add_a_compressor": "tests/test_readme.py",
    "add_a_task": "tests/eval/test_own_task.py",
    "add_a_family": "tests/kinds/test_own_compressor.py",
    "add_a_language_model": "tests/kinds/test_own_compressor.py",
    "add_a_tower": "tests/kinds/test_own_compressor.py",
    "kits": "tests/eval/test_kit_wrappers.py",
    "release": "tests/hub/test_release.py",
}


def shown(page: str) -> list[tuple[str, str]]:
    """The blocks of a page, in lists too, that do not say that they need weights: language and text."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found = [(language, re.sub(f"^{indent}", "", code, flags=re.M)) for indent, language, code in BLOCK.findall(text)]
    return [(language, code) for language, code in found if not code.startswith("# needs weights")]


def test_every_block_is_run_or_says_what_it_needs() -> None:
    pages = {page.stem for page in (ROOT / "docs").glob("*.md") if shown(page.stem)}
    assert pages == {*HERE, *ELSEWHERE}
    for page, test in ELSEWHERE.items():
        named = page == "index" or page in (ROOT / test).read_text(encoding="utf-8")
        assert named, f"{test} does not run docs/{page}.md"


def test_the_first_screen_shows_what_the_readme_shows() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"```{language}\n{code}```" in readme for language, code in shown("index"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository by links, with small data of its own, so that what a page writes does not land in it."""
    root = tmp_path_factory.mktemp("checkout")
    for entry in (*ROOT.iterdir(), *(ROOT / "playground" / "tiny").iterdir()):
        place = root / entry.relative_to(ROOT)
        if entry.name not in {"playground", "data", "out", "work", "runs", "checkpoints", ".venv", ".git"}:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(entry)
    (root / ".venv").symlink_to(sys.prefix)
    sizes = ["--train", "120", "--align", "1", "--scenes", "12", "--vqa", "40", "--pope", "20"]
    make = [sys.executable, "playground/tiny/make_data.py", "--output", "playground/tiny/data", *sizes]
    subprocess.run(make, cwd=root, check=True, capture_output=True)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("page", HERE)
def test_a_page_runs_from_top_to_bottom(page: str, checkout: Path) -> None:
    blocks = shown(page)
    python = "".join(code for language, code in blocks if language == "python")
    commands = "".join(code for language, code in blocks if language == "bash" and page not in PYTHON_ONLY)
    commands = commands.replace("--fail-under 0.98", "--fail-under 0.1")  # of so few questions more may be lost
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for language, code in (("bash", commands), ("python", python)):
        if code:
            run(language, code, cwd=checkout, PATH=path, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES="")
