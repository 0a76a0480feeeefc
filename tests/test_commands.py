"""`llava`: one table of commands, each the module that it names, with flags that mean the same everywhere."""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from llava import __version__
from llava.__main__ import main
from llava.command_line import SHARED_FLAGS, CommandParser, add_shared, loading_options, with_hyphens
from llava.commands import COMMANDS, all_commands

ROOT = Path(__file__).resolve().parents[1]


def llava(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llava", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_names_are_unique_and_modules_exist() -> None:
    commands = all_commands()
    assert len({command.name for command in commands}) == len({command.module for command in commands}) == len(commands)
    for command in commands:
        assert find_spec(command.module) is not None, command.module
        assert re.fullmatch(r"[a-z][a-z-]*", command.name) and "\n" not in command.help


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]], ids=["alone", "--help", "-h"])
def test_the_overview_lists_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(f"{title}:" in shown for title in COMMANDS)
    for command in all_commands():
        assert re.search(rf"^  {command.name} +{re.escape(command.help)}$", shown, re.MULTILINE), command.name


def test_help_of_a_command_is_its_flags(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["llava"])
    with pytest.raises(SystemExit) as end:
        main(["help", "subset"])
    assert end.value.code == 0 and capsys.readouterr().out.startswith("usage: llava subset ")
    assert main(["help", "valdate"]) == 2 and "did you mean validate or calibrate?" in capsys.readouterr().err


def test_the_version_is_the_packages() -> None:
    assert llava("--version").stdout == f"llava {__version__}\n"


def test_an_unknown_command_is_answered_with_near_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["valdate"]) == 2
    assert capsys.readouterr().err == "llava: there is no command 'valdate'; did you mean validate or calibrate?\n"
    assert main(["xyzzy"]) == 2
    assert capsys.readouterr().err == "llava: there is no command 'xyzzy'; `llava --help` lists them\n"


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: command.name)
def test_help_is_there_at_once_under_both_names(command) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = llava(command.name, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: llava {command.name} ")
    assert "--plugin MODULE_OR_FILE" in done.stdout
    assert after.ru_utime - before.ru_utime < 1  # of the processor: other work on the machine does not count
    if command.name != "train":  # whose flags are transformers' and LLaVA's, with underscores
        assert re.findall(r"--\w+_\w+", done.stdout) == []
    module = [sys.executable, "-m", command.module, "--help"]
    alias = subprocess.run(module, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert alias.startswith(f"usage: python -m {command.module} ")
    assert alias.partition("\n\n")[2] == done.stdout.partition("\n\n")[2]  # but for the usage, the same


def test_a_shared_flag_is_the_same_in_every_command() -> None:
    """The parsers' own words: a command that takes a shared flag has not given it another type or other choices."""
    from llava.analysis import efficiency
    from llava.eval import command, question_files, run_llava
    from llava.eval.compare import command as compare
    from llava.serve import cli

    parsers = [module.make_parser() for module in (efficiency, command, compare, run_llava, cli)]
    parsers.append(question_files.make_parser("model_vqa", "description"))
    for parser in parsers:
        for flag in ("--model-base", "--conv-mode", "--device", "--dtype", "--attn-implementation", "--load-4bit"):
            [action] = [action for action in parser._actions if flag in action.option_strings]
            assert action.choices == SHARED_FLAGS[flag].get("choices"), (parser.prog, flag)
            assert action.help == SHARED_FLAGS[flag]["help"], (parser.prog, flag)


def test_underscores_are_as_good_as_hyphens_in_flags_and_stay_in_values() -> None:
    words = ["--model_path", "a_b", "--top_p=0.5", "--query", "is it --a_b?", "-x_y", "__z", "--", "--c_d"]
    expected = ["--model-path", "a_b", "--top-p=0.5", "--query", "is it --a_b?", "-x_y", "__z", "--", "--c_d"]
    assert with_hyphens(words) == expected
    assert with_hyphens(["--query=--a_b c_d=e_f"]) == ["--query=--a_b c_d=e_f"]


def test_old_names_of_a_flag_lead_to_the_same_place() -> None:
    parser = CommandParser("llava.x", None)
    add_shared(parser, "--model-path,--adapter", required=True)
    add_shared(parser, "--output-dir,--output,--save-model-path")
    for words in (["--adapter", "a", "--save_model_path", "o"], ["--model_path", "a", "--output", "o"]):
        args = parser.parse_args(words)
        assert (args.model_path, args.output_dir) == ("a", "o")


def test_what_is_not_asked_for_is_left_to_the_loader() -> None:
    assert loading_options(argparse.Namespace(model_path="a")) == {}
    parser = CommandParser("llava.x", None)
    add_shared(parser, "--device", "--dtype", "--load-4bit", "--compression", "--attn-implementation")
    args = parser.parse_args(["--dtype", "auto", "--load_4bit", "--compression", "none"])
    assert loading_options(args) == {"torch_dtype": "auto", "load_4bit": True}


def table(heading: str) -> list[list[str]]:
    """The rows of the table of docs/commands.md with that heading."""
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    lines = text.partition(f"\n{heading}\n")[2].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def test_the_document_lists_the_commands_and_the_shared_flags() -> None:
    rows = table("| command | `python -m` | does |")
    assert rows == [[command.name, command.module, command.help] for command in all_commands()]
    assert table("| flag | |") == [[flag, options["help"]] for flag, options in SHARED_FLAGS.items()]


def test_ctrl_c_ends_a_command_in_a_word(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("llava.data.convert.main", interrupted)
    assert main(["convert", "a.json", "--output", "b.json"]) == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(
    "words",
    [
        ["report", "runs", "--columns", "x"],
        ["judge", "runs", "--judge-url", "http://h/v1", "--judge-model", "m", "--judge-runs", "x"],
        ["eval", "--limit", "x"],
        ["validate", "--data-path", "a.json", "--workers", "x"],
    ],
)
def test_what_is_no_whole_number_is_said_in_words(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert f"argument {words[-2]}: invalid whole number value: 'x'" in capsys.readouterr().err
