"""The benchmarks run, write the common form, and the performance page is what their files give."""

from __future__ import annotations

import functools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
BENCHMARKS = sorted(file.stem for file in FOLDER.glob("*.py") if "parser.add_argument(" in file.read_text())
BENCHMARKS.remove("performance_page")

# Flags by which a benchmark shows in little time that it runs.
WORK = "@WORK@"  # stands for a folder
TOY = {
    "compressor": ["--batches", "1", "--largest-tower-batch", "0", "--repeats", "2", "--device", "cpu"],
    "cost": ["--model", "1.5-7b"],
    "eval_throughput": ["--images", "1", "--batch", "4", "--warmup", "0", "--repeats", "2", "--device", "cpu"],
    "export_memory": ["--gigabytes", "0.1", "--work", WORK],
    "generate": ["--requests", "2", "--batch", "2", "--new-tokens", "2", "--repeats", "2", "--device", "cpu"],
    "image_preparation": ["--warmup", "0", "--repeats", "2"],
    "loading": ["--gigabytes", "0.1"],
    "memory": ["--model", "1.5-7b", "--device", "cpu"],
    "prefill": ["--size", "toy", "--model", "1.5-7b", "--repeats", "2", "--device", "cpu"],
    "serving": ["--models", "tiny", "--clients", "2", "--new-tokens", "2", "--shares", "0.1", "--requests", "2"],
    "startup": ["--warmup", "0", "--repeats", "2"],
    "store": ["--images", "50", "--gigabytes", "0.01", "--pictures", "2", "1", "--reads", "5"],
    "train_throughput": ["--size", "toy", "--samples", "2", "--batch", "2", "--repeats", "2", "--device", "cpu"],
    "video": ["--size", "toy", "--seconds", "1", "--warmup", "0", "--repeats", "2", "--device", "cpu"],
    "vision": ["--batch", "1", "--warmup", "0", "--repeats", "2", "--device", "cpu"],
}
QUICK = {"cost"}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Runs a script of the folder in this process, where torch and transformers are loaded already."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))

    def run(name: str, *flags: str) -> None:
        monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", *flags])
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")

    yield run
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_every_benchmark_has_a_toy_run() -> None:
    assert set(TOY) == set(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_help_and_the_flags_that_all_have(name: str, script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        script(name, "--help")
    assert stopped.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("startup --repeats 0", "--repeats at least 1"),
        ("startup --warmup -1", "--warmup must be at least 0"),
        ("image_preparation --repeats 1", "--repeats at least 2"),
        ("image_preparation --sizes 64x48 64by48 0x48", "--sizes 64by48 0x48: give width x height"),
        ("loading --gigabytes 0", "--gigabytes 0: give a size above 0"),
        ("loading --gigabytes nan", "--gigabytes nan: give a size above 0"),
        ("loading --work no-such-folder", "--work no-such-folder: there is no such folder"),
        ("video --seconds 0", "--seconds above 0"),
        ("vision --batch 1 8 --repeats 4 3 2", "--repeats 4 3 2: give one number, or one for each size of --batch"),
        ("vision --batch 1 --repeats 1", "--repeats 1: give one number"),
        ("vision --batch 8 8", "--batch 8 8: give sizes of at least 1, each once"),
    ],
)
def test_bad_flags_are_told(line: str, said: str, script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name, *flags = line.split()
    with pytest.raises(SystemExit) as stopped:
        script(name, *flags)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in BENCHMARKS]
)
def test_a_toy_run_writes_the_common_form(name: str, script: Any, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    flags = [flag.replace(WORK, str(tmp_path / "work")) for flag in TOY[name]]
    file = tmp_path / "toy.json"
    try:
        script(name, *flags, "--json", str(file))
    finally:
        torch.set_num_threads(threads)
    told = json.loads(file.read_text())
    assert told["benchmark"] == name
    assert told["command"] == " ".join(["python", f"benchmarks/{name}.py", *flags])
    assert told["machine"]["torch"] == torch.__version__
    assert told["rows"] and all(list(row) == list(told["rows"][0]) for row in told["rows"])
    if name == "memory":
        assert all(value > 0 for row in told["rows"] for value in row.values() if not isinstance(value, str))
    for goal in told["goals"]:
        assert ("at_least" in goal) != ("at_most" in goal)
        assert goal["reached"] is not None or goal["note"] or goal["met"] is None


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:[.,]\d+)*(?:e[-+]?\d+)?", text))


def scalars(told: Any) -> Iterator[Any]:
    if isinstance(told, dict):
        for name, value in told.items():
            yield name
            yield from scalars(value)
    elif isinstance(told, list):
        for value in told:
            yield from scalars(value)
    else:
        yield told


def test_every_figure_of_the_page_stands_in_a_file(script: Any) -> None:
    """Below the head nothing is told that is no file's, to the digits that are shown."""
    from report import bound, cell

    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    head, _, tables = page.partition("## Goals")
    assert head.strip() == (FOLDER / "page_head.md").read_text(encoding="utf-8").strip()
    known: set[str] = set()
    for file in (FOLDER / "results").glob("*/*.json"):
        told = json.loads(file.read_text(encoding="utf-8"))
        known |= numbers(f"{file.parent.name} {told['command']}")
        for value in scalars(told):
            known |= numbers(str(value)) | (numbers(cell(value)) if isinstance(value, int | float) else set())
        for goal in told["goals"]:
            known |= numbers(bound(goal))
    assert numbers(tables) and numbers(tables) <= known


@pytest.fixture
def page_status(script: Any) -> Any:
    """The page script's exit status."""

    def status(*flags: str) -> int:
        with pytest.raises(SystemExit) as stopped:
            script("performance_page", *flags)
        return int(stopped.value.code or 0)

    return status


def with_a_figure_changed(folder: Path) -> Path:
    """A copy of the results, where a counted cost is another."""
    results = folder / "results"
    shutil.copytree(FOLDER / "results", results)
    file = next(results.glob("*/cost.json"))
    told = json.loads(file.read_text())
    told["rows"][0]["prefill TFLOP"] = 123.0
    file.write_text(json.dumps(told))
    return results


def test_a_changed_figure_is_another_page(page_status: Any, tmp_path: Path) -> None:
    assert page_status("--check") == 0
    assert page_status("--check", "--results", str(with_a_figure_changed(tmp_path))) == 1


@pytest.mark.slow
def test_the_page_and_its_picture_are_remade(page_status: Any, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "performance.md"
    flags = ["--results", str(with_a_figure_changed(tmp_path)), "--page", str(page)]
    assert [page_status("--check", *flags), page_status(*flags), page_status("--check", *flags)] == [1, 0, 0]
    assert "| 123 |" in page.read_text()
    assert (page.parent / "assets" / "cost_against_tokens.svg").stat().st_size > 10_000


def commands_of(script: str, **variables: str) -> list[str]:
    """What a script would run: its interpreter is `echo`."""
    variables = {"PYTHON": "echo", "MACHINE": "m", "RESULTS": "r", "PAGE": "p.md"} | variables
    done = subprocess.run(
        ["bash", str(FOLDER / script)], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    return [line for line in done.stdout.splitlines() if line.startswith("benchmarks/")]


def test_the_scripts_run_every_benchmark() -> None:
    for script in ("run_cpu.sh", "run_gpu.sh"):
        *lines, last = commands_of(script)
        assert last == "benchmarks/performance_page.py --results r --page p.md"
        assert {Path(line.split()[0]).stem for line in lines} == set(BENCHMARKS) - {"export_memory"}
        files = [line.split("--json ")[1] for line in lines]
        assert len(set(files)) == len(files) and all(re.fullmatch(r"r/m/[\w.-]+\.json", file) for file in files)


def test_a_piece_and_a_single_benchmark() -> None:
    pieces = [commands_of("run_gpu.sh", PIECE=str(number))[:-1] for number in range(1, 7)]
    assert all(pieces) and [line for piece in pieces for line in piece] == commands_of("run_gpu.sh")[:-1]
    one = commands_of("run_cpu.sh", PIECE="2", SIGLIP="--batch 2", RESULTS="elsewhere")[:-1]
    assert one == ["benchmarks/vision.py --batch 2 --json elsewhere/m/vision-siglip.json"]
    assert len(commands_of("run_cpu.sh", ONLY="loading prefill")) == 3


@pytest.mark.slow
def test_the_script_tells_what_failed_and_goes_on(tmp_path: Path) -> None:
    """A benchmark that fails in the middle; the ones around it and the page are made, and the status says so."""
    variables = {
        "PYTHON": sys.executable,
        "RESULTS": str(tmp_path / "results"),
        "PAGE": str(tmp_path / "docs" / "performance.md"),
        "MACHINE": "toy",
        "ONLY": "cost prefill train_throughput",
        "COST": " ".join(TOY["cost"]),
        "PREFILL": "--size none-such",
        "TRAIN_THROUGHPUT": " ".join(TOY["train_throughput"]),
    }
    done = subprocess.run(
        ["bash", str(FOLDER / "run_cpu.sh")],
        env={**os.environ, **variables},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.rstrip().endswith("failed: prefill")
    assert {file.name for file in (tmp_path / "results" / "toy").iterdir()} == {"cost.json", "train_throughput.json"}
    assert "## Tuning the projector" in (tmp_path / "docs" / "performance.md").read_text()


def test_a_ratio_is_that_of_the_rounds(script: Any) -> None:
    """A machine that slows down to a third halfway through changes no ratio, and neither side gains from noise."""
    from harness import Measurement

    ours, theirs = Measurement((10.0, 10.0, 30.0, 30.0), None), Measurement((20.0, 22.0, 60.0, 66.0), None)
    assert ours.ms == (10, 20, 30)
    assert ours.times_as_fast_as(theirs) == pytest.approx((2.0, 4.4**0.5, 2.2))
    noisy, other = Measurement((10.0, 20.0), None), Measurement((20.0, 10.0), None)
    assert noisy.times_as_fast_as(other) == pytest.approx((0.5, 1.0, 2.0)) and str(noisy.ms) == "10 to 20"
    with pytest.raises(ValueError, match=r"shorter|longer"):
        ours.times_as_fast_as(Measurement((20.0, 22.0), None))


def test_sides_take_turns_forth_and_back(script: Any) -> None:
    from harness import measure

    for warmup, before in ((0, "c"), (1, "abc")):
        runs: list[str] = []
        sides = {name: functools.partial(runs.append, name) for name in "abc"}
        found = measure(sides, torch.device("cpu"), warmup=warmup, repeats=3, memory=False)
        assert "".join(runs) == before + "abc" + "cba" + "abc"
        assert [len(side.times_ms) for side in found.values()] == [3, 3, 3]


def test_each_batch_has_its_rounds(script: Any) -> None:
    from vision import rounds_of

    assert rounds_of([8, 1], [2, 4]) == [(1, 4), (8, 2)] and rounds_of([8, 1], [3]) == [(1, 3), (8, 3)]


def test_a_budget_without_memory_for_decoding_still_has_its_prefill(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stages
    from models import model_config, random_model
    from prompts import BUDGETS

    model = random_model(model_config("1.5-7b", "toy"), torch.device("cpu"), torch.float32)
    real = stages.static_copy

    def short_of_memory(model: Any, cache: Any, room: int) -> Any:
        if cache.get_seq_length() > 300:
            raise torch.OutOfMemoryError
        return real(model, cache, room)

    monkeypatch.setattr(stages, "static_copy", short_of_memory)
    watch = stages.Stopwatch(torch.device("cpu"), warmup=0, repeats=2)
    found = {point.tokens: point for point in stages.measure_stages(model, "1.5-7b", 1, watch)}
    assert set(found) == set(BUDGETS["1.5"]) and all(point.prefill and point.vision for point in found.values())
    assert [tokens for tokens, point in found.items() if point.decode is None] == ["576"]


def test_budgets_are_called_by_the_tokens_that_they_leave(script: Any) -> None:
    """And a prompt of LLaVA-OneVision is encoded as it is counted, on torch's meta device."""
    from models import MGM, MODELS, ONEVISION, model_config, random_model
    from prompts import BUDGETS, family_of, make_prompt, visual_tokens

    newlines = {("next", "2880"): 48}  # the paper leaves them out
    for name in (*MODELS, *ONEVISION, *MGM):
        config, family = model_config(name), family_of(name)
        for tokens, budget in BUDGETS[family].items():
            assert visual_tokens(config, name, budget) == int(tokens) + newlines.get((family, tokens), 0), name
    model = random_model(model_config("onevision-0.5b"), torch.device("meta"), torch.bfloat16)
    for tokens, budget in BUDGETS["onevision"].items():
        model.set_compression(budget)
        with torch.inference_mode():
            (features,) = make_prompt(model, "onevision-0.5b", 1).encode(model)
        assert features.shape == (int(tokens), 896)


def test_statics_of_a_decode_step_are_those_of_the_prompt(script: Any) -> None:
    """The cache of fixed size that decoding is timed with gives the logits of the one that grew."""
    from models import model_config, random_model
    from prompts import make_prompt
    from stages import static_copy

    torch.manual_seed(0)
    model = random_model(model_config("1.5-7b", "toy"), torch.device("cpu"), torch.float32)
    model.set_compression("visionzip:54+10")
    with torch.inference_mode():
        prompt = make_prompt(model, "1.5-7b", 2)
        features = prompt.encode(model)
        ids = torch.tensor([[5], [6]])
        grown = prompt.prefill(model, features).past_key_values
        assert grown.get_seq_length() == 126, "62 tokens of text and 64 of the image"
        expected = model(ids, past_key_values=grown, use_cache=True).logits
        static = static_copy(model, prompt.prefill(model, features).past_key_values, room=3)
        torch.testing.assert_close(model(ids, past_key_values=static, use_cache=True).logits, expected)
