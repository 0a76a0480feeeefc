"""The notebooks run from top to bottom, at a tenth of their size, and say what their texts say."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.checkout import ROOT, link_checkout

FOLDER = ROOT / "notebooks"
NAMES = sorted(file.stem for file in FOLDER.glob("*.ipynb"))


def cells_of(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("name", NAMES)
def test_they_are_committed_without_outputs(name: str) -> None:
    for cell in cells_of(name):
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


def test_each_is_listed_and_every_link_leads_somewhere() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"\]\((\w+)\.ipynb\)", page))) == NAMES
    texts = {name: "".join(line for cell in cells_of(name) for line in cell["source"]) for name in NAMES}
    for name, text in texts.items():
        for link in re.findall(r"\]\(([^)]+)\)", text):
            assert (FOLDER / link).is_file(), f"{name}: {link}"


def run(name: str, root: Path) -> list[dict[str, Any]]:
    """The cells of a notebook with their outputs; a cell that fails raises."""
    if find_spec("nbclient") is None:
        pytest.skip("needs the extra notebooks: EXTRAS=notebooks bash scripts/setup.sh")
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    place = {"metadata": {"path": str(link_checkout(root))}}
    return NotebookClient(book, timeout=600, kernel_name="python3", resources=place).execute()["cells"]


def said(cells: list[dict[str, Any]]) -> str:
    """What the cells print, and the Markdown that they show."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(each.get("text", "") or each.get("data", {}).get("text/markdown", "") for each in outputs)


def pictures(cells: list[dict[str, Any]]) -> int:
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))


@pytest.fixture(autouse=True)
def a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTEBOOK_SHARE", "0.1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.slow
def test_first_look(tmp_path: Path) -> None:
    cells = run("first_look", tmp_path)
    text = said(cells)
    assert "196 patches, each a visual token" in text and pictures(cells) == 2
    assert re.findall(r"^ *(\d+) tokens: ", text, re.MULTILINE) == ["196", "98", "49", "20"]
    rows = json.loads((tmp_path / "runs/notebooks/first_look/eval/results.json").read_text())["rows"]
    score = {row["compression"]: row["accuracy"] for row in rows}
    assert score["visionzip:17+3"] > 0.85 * score["none"] and score["random:20"] < 0.7 * score["none"]
    assert "| random:20 " in text and "Retention, % of vanilla" in text


@pytest.mark.slow
def test_your_own_compressor(tmp_path: Path) -> None:
    cells = run("your_own_compressor", tmp_path)
    text = said(cells)
    assert "fade must be above 0 and at most 1, got 2" in text and pictures(cells) == 1
    for method in ("visionzip", "random", "uniform", "pool", "downsample", "apart,fade=0.2", "apart,fade=1"):
        assert re.search(rf"^\| {re.escape(method)} +\| [\d.]+ \[", text, re.MULTILINE), method


@pytest.mark.slow
def test_tune_and_release(tmp_path: Path) -> None:
    text = said(run("tune_and_release", tmp_path))
    assert "all checks passed" in text and "nothing was sent (--dry-run)" in text
    assert "| before visionzip:17+3 " in text and "| after visionzip:17+3 " in text
    assert "# tiny-digits-20" in text, "the card"
    assert re.search(r"^visionzip:17\+3: 20 tokens, \w", text, re.MULTILINE)
    assert not (tmp_path / "playground/tiny/data").exists()
