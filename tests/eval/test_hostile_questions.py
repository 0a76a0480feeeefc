"""One bad question ends nothing: it is named, and the others are answered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from llava.eval.command import main
from llava.eval.in_flight import InFlight
from llava.eval.runner import RunSettings, evaluate
from llava.eval.tasks import TaskDataError, get_task
from llava.inference import GenerationOptions, Inference, Question
from llava.inference import window as window_module
from tests.eval import layout
from tests.images.test_opening import png


@pytest.fixture(scope="module")
def inference(oracle_dir: Path) -> Inference:
    return Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu", compression="visionzip:54+10")


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


def settings(output_dir: Path, data_root: Path, **more: Any) -> RunSettings:
    return RunSettings(output_dir, "model", data_root, latency_repeats=0, progress=False, **more)


def test_an_image_of_gigabytes_costs_one_wrong_answer(
    oracle_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "images" / "eval_1.png").write_bytes(png(1, 65_000))
    os.mkfifo(data / "images" / "pipe.png")
    rows = json.loads((data / "eval_pope.json").read_text())
    (data / "eval_pope.json").write_text(json.dumps([*rows, rows[0] | {"question_id": 77, "image": "pipe.png"}]))
    words = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--tasks", "tiny_pope", "--device", "cpu"]
    words += ["--data-root", str(data), "--output-dir", str(tmp_path / "out"), "--latency-repeats", "0"]
    assert main([*words, "--compression", "visionzip:54+10"]) == 0
    out = capsys.readouterr().out
    assert "counted as wrong: 2: cannot read image" in out and "pipe.png: a pipe" in out
    [row] = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert row["n"] == 11 and len(row["errors"]) == 3
    assert sum("eval_1.png: 1x65000 pixels become 4225000000" in line for line in row["errors"]) == 2


def test_questions_that_cannot_be_asked_are_bad_rows(inference: Inference, data: Path, tmp_path: Path) -> None:
    path = data / "eval_vqa.json"
    rows = json.loads(path.read_text())
    changes = {
        0: {"text": "Is <image> like <image>?"},
        1: {"text": "What does <image-placeholder> or <image> mean?"},
        2: {"text": "Half \ud83d of a pair"},
        3: {"answer": "\udcff"},
        4: {"image": "\udcff.png"},
    }
    path.write_text(json.dumps([row | changes.get(number, {}) for number, row in enumerate(rows)]))
    [result] = evaluate(inference, [get_task("tiny_vqa")], [None], settings(tmp_path / "out", data))
    assert result.row["n"] == 15 and not result.row["errors"]
    reasons = result.row["bad_rows"]
    assert [f"sample '{number}'" in reason for number, reason in enumerate(reasons)] == [True] * 5
    assert "2 <image> but 1 images" in reasons[0] and "not Unicode at character 5, '\\ud83d'" in reasons[2]
    "\n".join(reasons).encode()  # and can be printed
    path.write_text(json.dumps([row | changes[0] for row in rows]))
    with pytest.raises(TaskDataError, match="tiny_vqa: not one sample can be asked, the first is sample '0'"):
        evaluate(inference, [get_task("tiny_vqa")], [None], settings(tmp_path / "out2", data))


def test_whatever_raises_while_a_question_is_prepared_is_told(inference: Inference, tiny_data: Path) -> None:
    good = tiny_data / "images" / "eval_0.png"
    bad: list[Any] = [Question("\udcff", (good,)), Question(5, (good,)), Question("What?", (3.5,))]  # type: ignore[arg-type]
    questions = [Question("What?", (good,)), *bad]
    options = GenerationOptions(max_new_tokens=1)
    answers = sorted(inference.ask(questions, options=options, skip_errors=True), key=lambda answer: answer.index)
    assert [answer.error is None for answer in answers] == [True, False, False, False]
    assert "not Unicode" in str(answers[1].error) and all(answer.error for answer in answers[1:])
    with pytest.raises(ValueError, match="not Unicode"):
        inference.ask_one("\udcff", good)


class Uniform:
    """Stands for a picture that crashes what sees it: one of a single colour."""

    def __init__(self, inference: Inference) -> None:
        self.seen = 0
        self.embeddings = inference.model.model.vision_tower.embeddings
        self.handle = self.embeddings.register_forward_pre_hook(self)

    def __call__(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if bool((inputs[0].flatten(2).std(dim=2).sum(dim=1) < 1e-6).any()):
            self.seen += 1
            raise RuntimeError("an illegal instruction")


def test_a_question_that_crashes_again_is_recorded_and_the_others_are_answered(
    inference: Inference, data: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (30, 30), "red").save(data / "images" / "eval_3.png")
    task, place = get_task("tiny_pope"), settings(tmp_path / "out", data, batch_size=4)
    crash = Uniform(inference)
    runs = 0
    try:
        while True:
            runs += 1
            try:
                [result] = evaluate(inference, [task], [None], place)
                break
            except RuntimeError:
                assert runs < 6
        [again] = evaluate(inference, [task], [None], place)
    finally:
        crash.handle.remove()
    assert crash.seen == runs - 1 == 3, "once in a batch, then once each of the two about this picture"
    errors = result.row["errors"]
    assert [line.partition(":")[0] for line in errors] == ["6", "7"] and result.row["n"] == 10
    [marker] = (tmp_path / "out").rglob("*.asking")
    assert all(f"died at it 2 times; to try it again, remove {marker}" in line for line in errors)
    assert again.row["errors"] == errors, "and they are not tried again"
    marker.unlink()
    [healed] = evaluate(inference, [task], [None], place)
    assert not healed.row["errors"] and not list((tmp_path / "out").rglob("*.asking"))


def test_what_was_in_flight(tmp_path: Path) -> None:
    path = tmp_path / "a.asking"

    def run(*begun: list[str], ends: type[BaseException] | None = None) -> InFlight:
        flight = InFlight(path)
        try:
            with flight:
                for names in begun:
                    flight.begin(names)
                if ends is not None:
                    raise ends
        except BaseException as error:
            assert type(error) is ends
        return flight

    for innocent in (None, KeyboardInterrupt, OSError):
        run(["a", "b"], ends=innocent)
        assert not path.exists()
    run(["a", "b"], ["c", "d"], ends=RuntimeError)
    assert InFlight(path).deaths == {"c": 1, "d": 1} and not InFlight(path).given_up
    run(["x"], ends=KeyboardInterrupt)
    assert InFlight(path).deaths == {"c": 1, "d": 1}, "still suspect after a run that was stopped"
    run(["x", "y"], ["c"], ends=RuntimeError)
    assert InFlight(path).given_up == {"c"}
    run(["d"])
    assert InFlight(path).deaths == {"c": 2} and InFlight(path).given_up == {"c"}
    run(["z"], ends=RuntimeError)
    assert InFlight(path).given_up == {"c"}, "once alone is no proof: somebody may have ended the program"
    with path.open("a") as file:
        file.write('["torn')
    assert InFlight(path).deaths["z"] == 1
    for damage in (b"", b"[]\n", b'{"deaths": 5}\n', b"\xff\n"):
        path.write_bytes(damage)
        assert not InFlight(path).deaths


@pytest.mark.slow
def test_a_question_that_kills_the_process_is_recorded(oracle_dir: Path, data: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 30), "red").save(data / "images" / "eval_3.png")
    rows = json.loads((data / "eval_pope.json").read_text())
    (data / "eval_pope.json").write_text(json.dumps([row for row in rows if row["question_id"] != 7]))
    plugin = tmp_path / "killer.py"
    plugin.write_text(
        "import os, signal\nfrom llava.inference import Inference\nload = Inference.load.__func__\n"
        "def see(module, inputs):\n"
        "    if bool((inputs[0].flatten(2).std(dim=2).sum(dim=1) < 1e-6).any()):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "def loaded(cls, *args, **options):\n"
        "    inference = load(cls, *args, **options)\n"
        "    inference.model.model.vision_tower.embeddings.register_forward_pre_hook(see)\n"
        "    return inference\n"
        "Inference.load = classmethod(loaded)\n"
    )
    words = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--tasks", "tiny_pope", "--device", "cpu"]
    words += ["--data-root", str(data), "--output-dir", str(tmp_path / "out"), "--latency-repeats", "0"]
    words += ["--plugin", str(plugin), "--compression", "none"]
    statuses = []
    while not statuses or (statuses[-1] and len(statuses) < 6):
        done = subprocess.run([sys.executable, "-m", "llava.eval", *words], capture_output=True, text=True, check=False)
        statuses.append(done.returncode)
    assert statuses == [-9, -9, 0], done.stderr
    [row] = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert row["n"] == 9 and [line.partition(":")[0] for line in row["errors"]] == ["6"]


def test_a_windows_downloads_are_bounded(inference: Inference, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.eval.test_asking import downloads_held
    from tests.images.test_download import Server, whole

    monkeypatch.setattr(window_module, "_MOST_DOWNLOADED", 3 * len(layout.png()) - 1)
    server = Server()
    questions = []
    for number in range(16):
        server.answers[f"/{number}.png"] = whole(layout.png())
        questions.append(Question("What?", (f"{server.url}/{number}.png",)))
    held = []
    for _ in inference.ask(questions, batch_size=1, options=GenerationOptions(max_new_tokens=1)):
        held.append(downloads_held())
    server.listening.close()
    assert len(held) == len(server.requests) == 16 and max(held) == 2, "two wait while one is asked"
