"""`--plugin`, `LLAVA_PLUGINS`: a method in a file of one's own works in every command, and results say that it did."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llava.command_line import CommandParser
from llava.eval.answers_key import AnswersKey
from tests.train.conftest import free_port, launch_environment

ROOT = Path(__file__).resolve().parents[1]

# A method that keeps the first patches of a tile.
PLUGIN = """
import torch

from llava.model.multimodal_compressor import CompressedTokens, register_compressor


@register_compressor("first")
def first(features, budget):
    tokens = features.patches[:, : budget.num_tokens]
    index = torch.arange(budget.num_tokens, device=tokens.device).expand(tokens.shape[:2])
    return CompressedTokens(tokens, index, torch.ones_like(index), budget.num_tokens, 0)
"""

# Commands of one process, as a list of words each; torch is imported once.
RUN = """
import json, sys

from llava.__main__ import main

for words in json.loads(sys.argv[1]):
    print("#", *words)
    if words[0] == "train":  # which would hand this process over to a launcher
        from llava.train.train import train

        train(words[1:])
    else:
        assert main(words) == 0, words
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "first_patches.py"
    file.write_text(PLUGIN)
    return file


@pytest.fixture
def questions(oracle_dir: Path, tmp_path: Path) -> Path:
    """Two questions of `tiny_vqa`."""
    root = tmp_path / "data"
    shutil.copytree(oracle_dir / "images", root / "images")
    row = {"image": "square.png", "answer": "1", "kind": "digit"}
    rows = [row | {"question_id": number, "text": f"Which digit is {number}?"} for number in range(2)]
    (root / "eval_vqa.json").write_text(json.dumps(rows))
    return root


def run(*commands: list[Any], **variables: str) -> str:
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", RUN, words],
        cwd=ROOT,
        env=launch_environment(**variables),
        input="What is this?\n\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout


def training(oracle_dir: Path, output: Path) -> list[str]:
    words = f"""--model-path {oracle_dir}/tiny-llava-v1.5 --stage projector --compression first:32
        --data-path {oracle_dir}/train_tiny.json --image-folder {oracle_dir}/images --output-dir {output}
        --per-device-train-batch-size 1 --max-steps 1 --report-to none --use-cpu True --disable-tqdm True"""
    return words.split()


def test_a_method_of_ones_own_works_in_every_command(
    plugin: Path, oracle_dir: Path, questions: Path, tmp_path: Path
) -> None:
    own, model = ["--plugin", plugin], ["--model-path", oracle_dir / "tiny-llava-v1.5", "--device", "cpu"]
    picture = oracle_dir / "images" / "square.png"
    tuned, exported, results, cache = (tmp_path / name for name in ("tuned", "exported", "results", "cache"))
    evaluation = ["--tasks", "tiny_vqa", "--limit", 2, "--latency-repeats", 0, "--data-root", questions]
    evaluation += ["--output-dir", results, "--compression", "none", "--compression", "first:32"]
    short = ["--temperature", 0, "--max-new-tokens", 3]
    said = run(
        ["eval", *own, *model, *evaluation],
        ["report", *own, results, "--resamples", 0, "--no-picture"],
        ["ask", *own, *model, "--compression", "first:32", "--image-file", picture, "--query", "What?", *short],
        ["chat", *own, *model, "--compression", "first:32", "--image-file", picture, *short],
        ["bench", *own, *model, "--compression", "first:32", "--image-file", picture, "--repeats", 1, "--warmup", 0],
        ["train", *own, *training(oracle_dir, tuned), "--feature-cache", cache],
        ["export", *own, tuned, "--to", "hf", "--output-dir", exported],
        ["verify", *own, exported],
    )
    assert "first:32" in said and "all checks passed" in said

    [record] = json.loads((results / "results.json").read_text())["run"]["plugins"]
    assert record["name"] == plugin.name and len(record["sha256"]) == 16
    rows = json.loads((results / "results.json").read_text())["rows"]
    assert [(row["compression"], row["tokens"], row["plugins"]) for row in rows] == [
        ("none", 576, [record]),
        ("first:32", 32, [record]),
    ]
    assert rows[1]["retention"] is None or rows[1]["retention"] >= 0
    written = (results / "answers" / "tiny_vqa" / "first_32.jsonl").read_text().splitlines()
    assert json.loads(written[0])["run_key"]["plugins"] == [record]
    assert json.loads((tuned / "training_args.json").read_text())["plugins"] == [record]
    assert json.loads((exported / "config.json").read_text())["compression"]["method"] == "first"
    assert any(record["sha256"] in file.read_text() for file in cache.glob("*.json"))  # the key of the cached tokens


@pytest.mark.slow
def test_the_variable_names_plugins_too_and_an_edited_one_does_not_mix_its_answers(
    plugin: Path, oracle_dir: Path, questions: Path, tmp_path: Path
) -> None:
    words = ["--model-path", oracle_dir / "tiny-llava-v1.5", "--device", "cpu", "--tasks", "tiny_vqa"]
    words += ["--latency-repeats", 0, "--data-root", questions, "--output-dir", tmp_path / "results"]
    words += ["--compression", "first:32"]
    run(["eval", "--plugin", plugin, *words])
    plugin.write_text(f"{PLUGIN}\n# edited\n")
    command = [sys.executable, "-m", "llava.eval", *map(str, words)]
    variables = launch_environment(LLAVA_PLUGINS=plugin)
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "plugins: " in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "by"),
    [
        ("torchrun", "--plugin"),
        ("torchrun", "LLAVA_PLUGINS"),
        ("deepspeed", "--plugin"),
        ("deepspeed", "LLAVA_PLUGINS"),
    ],
)
def test_every_process_of_a_launcher_has_it(
    launcher: str, by: str, plugin: Path, oracle_dir: Path, tmp_path: Path
) -> None:
    if launcher == "deepspeed":
        pytest.importorskip("deepspeed")
    words = {
        "torchrun": ["torchrun", "--nproc_per_node", "2", "--master_port", str(free_port()), "-m"],
        "deepspeed": ["deepspeed", "--num_gpus", "2", "--master_port", str(free_port()), "--module"],
    }[launcher]
    words += ["llava.train.train", *training(oracle_dir, tmp_path / "out")]
    words += ["--deepspeed", "zero2"] if launcher == "deepspeed" else []
    words += ["--plugin", str(plugin)] if by == "--plugin" else []
    variables = {} if by == "--plugin" else {"LLAVA_PLUGINS": str(plugin)}
    done = subprocess.run(
        words, cwd=ROOT, env=launch_environment(**variables), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    written = json.loads((tmp_path / "out" / "training_args.json").read_text())
    assert [entry["name"] for entry in written["plugins"]] == [plugin.name]
    assert (tmp_path / "out" / "mm_projector.safetensors").is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "there is no such file"), ("import nowhere_to_be_found", "ModuleNotFoundError"), ("1 +", "SyntaxError")],
    ids=["missing", "import", "syntax"],
)
def test_a_plugin_that_cannot_be_loaded_ends_in_a_line(text: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / f"broken_{message.partition(' ')[0].lower()}.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit) as end:
        CommandParser("llava.x", None).parse_args(["--plugin", str(file)])
    assert str(end.value).startswith(f"error: plug-in {file}: ") and message in str(end.value)
    assert "\n" not in str(end.value).removesuffix("\n")


def test_a_variable_that_names_a_broken_plugin_ends_a_command_in_a_line(plugin: Path, tmp_path: Path) -> None:
    for variable, gone in ((f"{plugin},{tmp_path}/gone.py", "gone.py"), ("nowhere_to_be_found", "nowhere_to_be_found")):
        command = [sys.executable, "-m", "llava", "eval", "--list"]
        environment = launch_environment(LLAVA_PLUGINS=variable)
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith("error: plug-in ") and gone in done.stderr and done.stderr.count("\n") == 1


def test_keys_written_without_a_plugin_are_what_they_were() -> None:
    key = AnswersKey("pope", "model", None, "vicuna_v1", "prompts", {}, "torch.float16")
    assert "plugins" not in key.to_json() and key.differences(key.to_json()) == []
    mine = {"name": "mine.py", "sha256": "0" * 16}
    other = AnswersKey(**{**key.to_json(), "plugins": [mine]})
    assert other.to_json()["plugins"] == [mine] and other.differences(key.to_json())


def test_training_names_a_plugin_that_cannot_be_loaded_before_anything_else(tmp_path: Path) -> None:
    from llava.train.arguments import parse_arguments

    with pytest.raises(SystemExit, match=r"error: plug-in .*gone\.py: there is no such file"):
        parse_arguments(["--plugin", str(tmp_path / "gone.py"), "--output_dir", str(tmp_path)])
    (tmp_path / "mine.yaml").write_text(f"plugin: {tmp_path / 'lost.py'}\ncompression: mine:64\n")
    with pytest.raises(SystemExit, match=r"error: plug-in .*lost\.py: there is no such file"):
        parse_arguments(["--recipe", str(tmp_path / "mine.yaml"), "--output_dir", str(tmp_path)])
