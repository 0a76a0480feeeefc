"""The quickstart: its table, its tuning's inputs, and its data."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llava import CompressionConfig
from llava.analysis.kept_tokens.draw import Scene
from llava.analysis.kept_tokens.find import KeptTokens
from llava.eval.answers import AnswerFile
from llava.eval.answers_key import AnswersKey, compression_file_name, compression_name
from llava.eval.report.table import build_table
from llava.eval.results import write_results
from llava.eval.tasks import get_task
from llava.train.launch import LAUNCH_VARIABLES, VARIABLES

TINY = Path(__file__).parents[2] / "playground" / "tiny"


@pytest.fixture
def quickstart(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as a module; its neighbours are found as they are when it is run."""
    monkeypatch.syspath_prepend(str(TINY))
    yield import_module("quickstart")
    for name in ("quickstart", "table", "page"):
        sys.modules.pop(name, None)


def write_run(folder: Path, data: Path, fingerprint: str, right: dict[str, list[int]]) -> None:
    """An output folder as the runner leaves it, of a model that is right where it says 1; pope as well as vqa."""
    rows = []
    for budget, hits in right.items():
        compression = CompressionConfig.parse(budget) if "seed" not in budget else random_of(budget)
        tokens = compression.num_tokens if compression else 196
        for task, main in ((get_task("tiny_vqa"), True), (get_task("tiny_pope"), False)):
            if not main and compression is not None and compression.method == "random":
                continue
            samples = task.load(data).samples
            texts = {s.sample_id: s.answer if hit else "nothing" for s, hit in zip(samples, hits, strict=False)}
            setting = {"prompts": "p", "conv_mode": "v1", "dtype": "torch.float32", "generation": {}}
            key = AnswersKey(
                task.name, fingerprint, compression.to_dict() if compression else None, **_ordered(setting)
            )
            path = folder / "answers" / task.name / f"{compression_file_name(compression)}.jsonl"
            with AnswerFile(path, key) as file:
                for sample_id, text in texts.items():
                    file.append(sample_id, text)
            row = {"task": task.name, "method": compression.method if compression else "none", "tokens": tokens}
            row |= {"compression": compression_name(compression), "n": len(samples), **setting}
            rows.append(row | task.score(samples, texts))
    write_results(folder / "results.json", rows, fingerprint)


def random_of(budget: str) -> CompressionConfig:
    tokens, seed = re.findall(r"\d+", budget)
    return CompressionConfig("random", int(tokens), 0, seed=int(seed))


def _ordered(setting: dict[str, Any]) -> dict[str, Any]:
    return {name: setting[name] for name in ("conv_mode", "prompts", "generation", "dtype")}


def test_the_table_is_the_evaluations_report(quickstart: ModuleType, tiny_data: Path, tmp_path: Path) -> None:
    pictures = {str(n): f"{n // 4}.png" for n in range(20)}
    right = {
        "none": [1] * 20,
        "visionzip:17+3": [1] * 15 + [0] * 5,
        "random:20": [1] * 10 + [0] * 10,
        "random:20,seed=1": [0] * 20,
        "random:20,seed=2": [1] * 10 + [0] * 10,
        "uniform:20": [1] * 9 + [0] * 11,
    }
    measured, tuned = tmp_path / "measured", tmp_path / "tuned"
    write_run(measured, tiny_data, "model", right)
    write_run(tuned, tiny_data, "tuned", {"visionzip:17+3": [1] * 18 + [0] * 2})
    table = quickstart.report_table(measured, [tuned], tiny_data)
    earned = {
        (measured, budget): {str(n): float(hit) for n, hit in enumerate(hits)}
        for budget, hits in right.items()
        if "random" not in budget
    }
    seeds = [{str(n): float(hit) for n, hit in enumerate(hits)} for name, hits in right.items() if "random" in name]
    earned[measured, "random:20"] = quickstart.mean_earned(seeds)
    earned[tuned, "visionzip:17+3"] = {str(n): float(n < 18) for n in range(20)}
    vanilla, random, uniform, visionzip, after = quickstart.rows_of(table, earned, pictures)
    assert (vanilla["method"], vanilla["retention"], vanilla["retention_low"]) == ("none", 1.0, None)
    assert random["accuracy"] == pytest.approx(1 / 3) and (random["seeds"], random["n"]) == (3, 20)
    assert (uniform["method"], uniform["accuracy"], uniform["seeds"]) == ("uniform", 0.45, 1)
    assert visionzip["retention"] == 0.75 and visionzip["pope_n"] == 10
    for row in (random, uniform, visionzip):
        assert 0 <= row["retention_low"] < row["retention"] < row["retention_high"] <= 1
    for rival, expected in (("random", 0.75 - 1 / 3), ("uniform", 0.3)):
        lead = visionzip[f"lead_over_{rival}"]
        assert lead["difference"] == pytest.approx(expected)
        assert lead["low"] <= lead["difference"] <= lead["high"]
    assert after["method"] == "visionzip+tuned" and not [name for name in after if name.startswith("lead")]
    assert after["gain_by_tuning"]["difference"] == pytest.approx(0.15)
    assert after["recovered"] == pytest.approx(0.6)


def settings_for(quickstart: ModuleType, folder: Path) -> Any:
    return quickstart.Settings(folder / "model", folder / "data", folder / "out", 1, 1, 0.1, 1, 1)


def test_no_variable_of_the_tuning_script_is_left_to_the_user(quickstart: ModuleType, tmp_path: Path) -> None:
    text = (quickstart.REPOSITORY / "scripts" / "v1_5" / "visionzip_tune.sh").read_text()
    variables = {*re.findall(r"\$\{([A-Z0-9_]+):[-+?]", text), *VARIABLES, *LAUNCH_VARIABLES}
    environment = quickstart.tuning_environment(
        settings_for(quickstart, tmp_path), CompressionConfig("visionzip", 17, 3), tmp_path
    )
    assert variables == set(environment)


def test_another_tuning_starts_from_nothing(
    quickstart: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, budget = settings_for(quickstart, tmp_path), CompressionConfig("visionzip", 17, 3)
    for folder, name in ((settings.model, "config.json"), (settings.data, "train.json")):
        folder.mkdir()
        (folder / name).write_text("{}")
    found: list[list[str]] = []

    def script(_command: object, environment: dict[str, str]) -> None:
        folder = Path(environment["OUTPUT"])
        found.append(sorted(path.name for path in folder.glob("checkpoint-*")))
        (folder / "checkpoint-3").mkdir(exist_ok=True)
        if len(found) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(quickstart, "run", script)
    with pytest.raises(KeyboardInterrupt):
        quickstart.tune(settings, budget)
    for _ in range(2):
        quickstart.tune(settings, budget)
    assert found == [[], ["checkpoint-3"]], "an interrupted tuning goes on, a finished one is not repeated"
    (settings.data / "train.json").write_text("[]")
    quickstart.tune(settings, budget)
    assert found[2:] == [[]], "other conversations: no old checkpoint is left"


def test_fingerprint_changes_with_contents(quickstart: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("1")
    before = quickstart.fingerprint([file])
    assert quickstart.fingerprint([file]) == before != quickstart.fingerprint([file], extra="x")
    file.write_text("2")
    assert quickstart.fingerprint([file]) != before


@pytest.mark.parametrize("wrong", [("--questions", "0"), ("--batch-size", "-1"), ("--model", "/nope")])
def test_bad_input_ends_before_anything_is_made(
    quickstart: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrong: tuple[str, str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--out", str(tmp_path / "out"), *wrong])
    with pytest.raises(SystemExit):
        quickstart.main()
    assert f"error: {wrong[0]}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_data_are_made_anew_when_their_recipe_or_arguments_change(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")

    def make(*more: str) -> tuple[dict[str, bytes], str]:
        few = ("--train", "3", "--align", "2", "--scenes", "2", "--vqa", "4", "--pope", "4")
        command = [sys.executable, str(TINY / "make_data.py"), "--output", str(tmp_path), *few, *more]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        files = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        return files, said

    first, _ = make()
    assert len([name for name in first if name.endswith(".png")]) == 5
    again, said = make()
    assert again == first and "already there" in said
    (tmp_path / "images" / "train_00001.png").unlink()
    assert make()[0] == first, "what is missing is painted again"
    other, _ = make("--seed", "1", "--scenes", "1")
    assert other["images/eval_00000.png"] != first["images/eval_00000.png"]
    assert "images/eval_00001.png" not in other and other[".made_by"] != first[".made_by"]
    (tmp_path / ".made_by").write_text("another recipe")
    (tmp_path / "images" / "train_00001.png").write_bytes(b"old")
    assert make()[0] == first


def test_the_recipe_writes_the_card_that_lies_beside_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TINY))
    card = (TINY / "model" / "README.md").read_text()
    words = re.split(r"\{[^}]*\}", import_module("publish").CARD)
    assert re.fullmatch(".+?".join(map(re.escape, words)), card, re.DOTALL)
    rows = [line.split("|")[1:3] for line in card.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == len(import_module("publish").BUDGETS)


def test_the_page_fits_a_phone(quickstart: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    budgets = (("none", 196, 0.9), ("visionzip:41+8", 49, 0.88), ("visionzip:17+3", 20, 0.87))
    rows: list[dict[str, Any]] = [
        {"task": "tiny_vqa", "method": budget.split(":")[0], "compression": budget, "n": 9, "tokens": tokens}
        | {"accuracy": accuracy, "retention": accuracy / 0.9, "vision_ms": 1.0, "prefill_ms": 1.0}
        for budget, tokens, accuracy in budgets
    ]
    write_results(tmp_path / "results.json", rows, "fp")
    kept = KeptTokens(np.zeros((28, 28, 3)), (2, 2), (0,), {3: 2}, keeps_cls=True)
    scene = Scene("Which <digit>?", "1", ((kept, "1"),))
    path = import_module("page").write_page(tmp_path, build_table([tmp_path]), rows, [scene], "a < b")
    page = path.read_text(encoding="utf-8")
    assert 'name="viewport"' in page and "overflow-x: auto" in page and "a &lt; b" in page
    pictures = [base64.b64decode(found) for found in re.findall(r"base64,([^\"]+)", page)]
    sizes = [Image.open(io.BytesIO(picture)).size for picture in pictures]
    # The curve is drawn small, so that its letters of 10 points stay readable at 400 pixels.
    assert len(sizes) == 2 and sizes[0][0] < 800 < sizes[1][0]
    assert (tmp_path / "report.png").is_file()
