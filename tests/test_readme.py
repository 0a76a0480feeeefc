"""The documents' code is run, so that what a reader copies works."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TENTH = "--questions 200 --pope 50 --fraction 0.01 --crowded 30"
"""Of the quickstart's questions and conversations; `make demos` takes all."""
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def blocks(file: str) -> list[tuple[str, str]]:
    """The fenced blocks of a document, those in lists too: language and text."""
    found = BLOCK.findall((ROOT / file).read_text(encoding="utf-8"))
    return [(language, re.sub(f"^{indent}", "", text, flags=re.M)) for indent, language, text in found]


def run(language: str, text: str, cwd: Path = ROOT, **variables: str) -> str:
    command = {"bash": ["bash", "-euo", "pipefail", "-c", text], "python": [sys.executable, "-c", text]}[language]
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.mark.slow
def test_a_compressor_from_outside_the_package(oracle_dir: Path, tmp_path: Path) -> None:
    (definition, use, _) = [text for language, text in blocks("docs/add_a_compressor.md") if language == "python"]
    assert definition.count("\n") <= 30
    (tmp_path / "farthest.py").write_text(definition, encoding="utf-8")
    use = use.replace("playground/tiny/model", str(oracle_dir / "tiny-llava-v1.5"))
    check = """
import torch

pixels = torch.randn(2, 3, 336, 336, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    both, alone = model.compress_images(pixels), model.compress_images(pixels[1:])
assert both.tokens.shape[:2] == (2, 49)
assert all(len(set(row)) == 49 and row == sorted(row) for row in both.positions.tolist())
assert torch.equal(both.positions[1:], alone.positions)
"""
    run("python", use + check, cwd=tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")


@pytest.mark.slow
def test_every_block_of_the_readme() -> None:
    shown = [block for block in blocks("README.md") if block[0] != "bibtex"]
    commands = [(language, text) for language, text in shown if not text.startswith("make test")]
    assert len(shown) == len(commands) + 1 and {language for language, _ in commands} == {"bash", "python"}
    assert "quickstart.sh" in commands[0][1], "the quickstart comes first: it makes what the other blocks need"
    for language, text in commands:
        run(language, text.replace("quickstart.sh", f"quickstart.sh {TENTH}"), VENV=".venv")


def test_the_readme_is_one_screen_and_cites_what_the_citation_file_names() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") <= 90
    [entries] = [text for language, text in blocks("README.md") if language == "bibtex"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"]
    assert len(cited) == entries.count("@") and all(f"{{{reference['title']}}}" in entries for reference in cited)


@pytest.mark.parametrize("document", ["docs/training.md", "docs/data.md"])
def test_training_is_shown_on_what_prepare_leaves(document: str) -> None:
    """OCR-VQA is never whole: prepare without --drop-missing exits with 1, and the whole JSON ends a run."""
    shown = "".join(text for language, text in blocks(document) if language == "bash")
    prepares = [line for line in shown.splitlines() if "llava prepare llava-665k" in line]
    assert prepares and all("--drop-missing" in line for line in prepares)
    assert "llava_v1_5_mix665k.reduced.json" in shown and "llava_v1_5_mix665k.json" not in shown
