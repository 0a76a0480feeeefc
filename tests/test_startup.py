"""What starts at once: `import llava`, and every command's `--help`, because they import nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from llava.train.arguments import _RENAMED, TrainingArguments
from llava.train.flags import DataArguments, ModelArguments, TrainingFlags
from llava.train.help import COMMON_FLAGS, make_help
from tests.train.test_arguments import EVERY, PUBLISHED

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted(
    str(file.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__main__")
    for file in (ROOT / "llava").rglob("*.py")
    if '__name__ == "__main__"' in file.read_text(encoding="utf-8") or file.name == "__main__.py"
)
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.py")), ROOT / "playground/tiny/quickstart.py"]
RECIPE = [file for file in sorted((ROOT / "playground/tiny").glob("*.py")) if "ArgumentParser(" in file.read_text()]
LATE = {
    "eval/data_place",  # flags that commands share, and what they stand for
    "eval/session",  # flags, checks and errors that commands share; what they run is imported when it is run
    "eval/question_files",  # of LLaVA's modules that write answers
    "hub/card/sample",  # its names are read by what starts at once; only asking needs a model
    "data/prepare/images",  # the commands of data name its jobs; only a check of pixels needs Pillow
}
HEAVY = {"torch", "transformers", "deepspeed", "datasets"}

# One process for all of them, so that the first to import something heavy is named.
ASK_FOR_HELP = """
import contextlib, io, pathlib, runpy, sys

for program in {programs}:
    sys.argv = [program, "--help"]
    sys.path[0] = str(pathlib.Path(program).parent)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            (runpy.run_path if program.endswith(".py") else runpy.run_module)(program, run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, (program, end.code)
    else:
        raise AssertionError(f"{{program}} --help did not end")
    assert "usage:" in said.getvalue(), program
    assert "--plugin" in said.getvalue() or program == "llava" or program.endswith(".py"), program
    heavy = {heavy} & set(sys.modules)
    assert not heavy, f"{{program}} --help imports {{heavy}}"
"""


@pytest.mark.parametrize(
    ("programs", "heavy", "least"),
    [
        ([*PACKAGE, *map(str, SCRIPTS)], HEAVY | {"numpy", "PIL"}, 28),
        ([*map(str, RECIPE)], HEAVY, 6),  # two of these draw pictures, for which they import numpy and Pillow
    ],
    ids=["commands", "recipe"],
)
def test_help_imports_nothing_heavy(programs: list[str], heavy: set[str], least: int) -> None:
    assert len(programs) >= least
    program = ASK_FOR_HELP.format(programs=programs, heavy=heavy)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_help_of_training_has_every_flag_of_ours_with_its_text():
    shown = " ".join(make_help().format_help().split())
    for kind in (ModelArguments, DataArguments, TrainingFlags):
        for entry in fields(kind):
            assert f"--{entry.name} " in shown
            assert " ".join(entry.metadata["help"].split()) in shown, entry.name


def test_the_help_of_training_has_every_flag_of_llavas_scripts():
    shown = make_help().format_help()
    passed = {word for text in (EVERY, *(text for text, _, _ in PUBLISHED.values())) for word in text.split()}
    flags = {word for word in passed if word.startswith("--")}
    assert len(flags) > 30
    assert [flag for flag in sorted(flags) if f"  {flag} " not in shown and f"  {flag}\n" not in shown] == []


def test_the_help_of_training_is_right_about_transformers():
    known = {entry.name: entry for entry in fields(TrainingArguments)}
    for name, text in COMMON_FLAGS.items():
        flag = (_RENAMED.get(f"--{name}") or f"--{name}").removeprefix("--")
        assert flag in known, name
        if "(default: " in text:
            assert float(text.partition("(default: ")[2].partition(")")[0]) == known[flag].default, name
    assert not {entry.name for entry in fields(TrainingFlags)} & set(COMMON_FLAGS)


def test_every_flag_of_transformers_can_be_listed(capsys):
    from llava.train.train import main

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["train.py", "--help-all"])
        main()
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert [entry.name for entry in fields(TrainingArguments) if entry.init and f"--{entry.name}" not in shown] == []


def test_only_commands_import_this_package_inside_functions() -> None:
    """So that `--help` waits for nothing; all other modules say at their top what they need."""
    late = {}
    for file in sorted((ROOT / "llava").rglob("*.py")):
        name = str(file.relative_to(ROOT / "llava").with_suffix(""))
        tree = ast.parse(file.read_text(encoding="utf-8"))
        is_command = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
        if is_command or name in LATE:
            continue
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llava"):
                    late.setdefault(name, []).append(node.module)
    assert late == {}
