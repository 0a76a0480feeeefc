"""The wheel is whole: built and installed without network, it does the work of a checkout from any other folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "playground" / "tiny" / "model"

pytestmark = pytest.mark.slow  # a minute on two cores


def run(*words: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LLAVA_"))}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder of the checkout adds files or is left behind."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "llava", source / "llava", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    words = ["wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "dist", "--quiet"]
    run(sys.executable, "-m", "pip", *words, cwd=source)
    [file] = (source / "dist").glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel, and the present environment's packages but not its checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    words = ["install", "--no-deps", "--no-index", "--no-compile", "--quiet", wheel]
    run(sys.executable, "-m", "pip", "--python", python, *words, cwd=folder)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # A path in a .pth adds a folder, and does not read the .pth files in it: an editable install stays out of sight.
    (packages / "present.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    where = run(python, "-c", "import llava; print(llava.__file__)", cwd=folder).strip()
    assert Path(where) == packages / "llava" / "__init__.py", "the checkout is in the way"
    return folder / "bin"


def test_the_installed_wheel_works_from_another_folder(installed: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    llava = installed / "llava"
    assert "prepare-eval" in run(llava, "--help", cwd=tmp_path)
    assert "tiny_vqa" in run(llava, "eval", "--list", cwd=tmp_path)

    names = ["--recipe", "llava-v1.5-7b-visionzip-64", "--hardware", "8x24gb"]
    shown = run(llava, "train", *names, "--dry-run", "--learning-rate", "1e-4", cwd=tmp_path)
    expected = (
        "deepspeed --module llava.train.train_mem --recipe llava-v1.5-7b-visionzip-64 8x24gb --learning-rate 1e-4"
    )
    assert shown == f"{expected}\n"
    launch = next(installed.parent.glob("lib/*/site-packages/llava/configs/launch"))
    assert {file.name for file in launch.iterdir()} == {"train.sh", "train.sbatch"}
    variables = {"RECIPE": names[1], "HARDWARE": names[3], "DRY_RUN": "1", "PATH": f"{installed}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", launch / "train.sh", "--learning-rate", "1e-4"],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == shown, done.stderr
    read = "import sys; from llava.train.arguments import recipe_flags; print(recipe_flags(sys.argv[1:]))"
    flags = run(installed / "python", "-c", read, names[1], names[3], cwd=tmp_path)
    assert "'--compression', 'visionzip:54+10'" in flags and "'--deepspeed', 'zero2'" in flags

    data = [ROOT / "playground" / "tiny" / "make_data.py", "--output", tmp_path / "data", "--train", 8, "--align", 8]
    run(installed / "python", *data, "--scenes", 8, "--vqa", 8, "--pope", 8, cwd=tmp_path)
    asked = ["--model-path", MODEL, "--tasks", "tiny_vqa", "--compression", "visionzip:41+8", "--limit", 4]
    place = ["--data-root", tmp_path / "data", "--output-dir", "out", "--device", "cpu", "--latency-repeats", 0]
    assert "tiny_vqa" in run(llava, "eval", *asked, *place, cwd=tmp_path)
    [row] = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert (row["tokens"], row["n"]) == (49, 4)
    assert time.monotonic() - begun < 90


def test_every_data_file_of_the_package_is_in_it(installed: Path) -> None:
    [package] = installed.parent.glob("lib/python*/site-packages/llava")
    tracked = {file.relative_to(ROOT / "llava") for file in (ROOT / "llava").rglob("*") if file.is_file()}
    data = {file for file in tracked if file.suffix not in (".py", ".pyc")}
    assert len(data) > 70
    assert {str(file) for file in data if not (package / file).is_file()} == set()
    assert all((package / file).read_bytes() == (ROOT / "llava" / file).read_bytes() for file in data)
