"""Asking about stored images: the same answers, and no pixel is opened."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from llava.encoded.errors import StoreMismatchError
from llava.eval.command import main as evaluate
from llava.inference import GenerationOptions, Inference, Question
from llava.serve import cli
from llava.serve.chat import Chat
from tests.store.conftest import MODEL

OPTIONS = GenerationOptions(max_new_tokens=6)


@pytest.fixture
def closed(files, tmp_path) -> list[Path]:
    """Copies of the pictures, as they are when a store is built; `shut` then makes them unreadable."""
    folder = tmp_path / "copies"
    folder.mkdir()
    for file in files:
        shutil.copy2(file, folder)
    return sorted(folder.iterdir())


def shut(files: list[Path]) -> None:
    """Same sizes, same times: whoever opens one of them fails."""
    for file in files:
        found = file.stat()
        file.write_bytes(b"x" * found.st_size)
        os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))


def _questions(files: list[Path]) -> list[Question]:
    asked = [Question(f"Which digit is in picture {number}?", (file,)) for number, file in enumerate(files)]
    return [*asked, Question("Which is larger?", tuple(files[:2])), Question("And what is 1 + 1?")]


def _ids(inference: Inference, questions: list[Question]) -> dict[int, tuple[int, ...]]:
    return {answer.index: answer.token_ids for answer in inference.ask(questions, batch_size=3, options=OPTIONS)}


@pytest.mark.parametrize("words", [[], ["--stage", "tower"]], ids=["projected", "tower"])
def test_greedy_ids_are_equal_and_no_pixel_is_opened(words, build, inference, files, closed, tmp_path):
    questions = _questions(closed)
    expected = _ids(inference, questions)
    assert all(expected.values())
    store = build(tmp_path / "store", "visionzip:41+8", *words, images=closed[0].parent)
    shut(closed)
    stored = Inference.load(MODEL, device="cpu", compression="visionzip:41+8", image_store=store.folder)
    assert _ids(stored, questions) == expected
    assert stored.usage.images_from_store == len(closed) and stored.usage.images_encoded == 0
    chat = Chat(stored, closed[:2])
    plain = Chat(inference, inference.open(files[:2]))
    for text in ("Which is larger?", "Why?"):
        assert chat.say(text, options=OPTIONS) == plain.say(text, options=OPTIONS)
    for file in closed:
        file.unlink()
    assert _ids(stored, questions) == expected, "the files are gone, their names are known"


def test_an_image_that_is_not_there_is_encoded_and_bytes_are_known(build, inference, files, tmp_path):
    store = build(tmp_path / "store", images=_folder_of(files[:3], tmp_path / "some"))
    asking = Inference.load(MODEL, device="cpu", compression="visionzip:41+8", image_store=[store])
    questions = _questions(files)
    assert _ids(asking, questions) == _ids(inference, questions)
    assert (asking.usage.images_from_store, asking.usage.images_encoded) == (3, 3)
    given = [Question("Which digit?", (files[0].read_bytes(),)), Question("Which digit?", (str(files[0]),))]
    assert len(set(_ids(asking, given).values())) == 1 and asking.usage.images_encoded == 0


def _folder_of(files: list[Path], folder: Path) -> Path:
    folder.mkdir()
    for file in files:
        shutil.copy2(file, folder)
    return folder


def test_a_store_of_another_model_is_refused_and_the_part_is_named(build, files, tmp_path):
    store = build(tmp_path / "store")
    asking = Inference.load(MODEL, device="cpu", compression="visionzip:41+8", image_store=store)
    asking.look_at(files[:1])

    def told(compression="visionzip:41+8", change=None) -> str:
        other = Inference.load(MODEL, device="cpu", compression=compression, image_store=store)
        if change is not None:
            with torch.no_grad():
                change(other.model.model)
        with pytest.raises(StoreMismatchError) as error:
            _ids(other, _questions(files))
        return str(error.value)

    assert "compression is visionzip:41+8, this model's is visionzip:40+8" in told("visionzip:40+8")
    changed = told(change=lambda model: next(model.multi_modal_projector.parameters()).mul_(2))
    assert ": projector is " in changed and "tower" not in changed
    changed = told(change=lambda model: next(model.vision_tower.parameters()).mul_(2))
    assert ": tower is " in changed and "projector" not in changed
    tower = build(tmp_path / "tower", "visionzip:41+8", "--stage", "tower")
    other = Inference.load(MODEL, device="cpu", compression="none", image_store=[store, tower])
    with pytest.raises(
        StoreMismatchError, match=r"under compression none; what differs: .*store: compression; .*tower"
    ):
        _ids(other, _questions(files))


def test_a_pruner_behind_the_same_budget_takes_the_same_store(build, inference, files, tmp_path):
    store = build(tmp_path / "store")
    asking = Inference.load(MODEL, device="cpu", compression="visionzip:41+8|fastv:40", image_store=store)
    plain = Inference.load(MODEL, device="cpu", compression="visionzip:41+8|fastv:40")
    assert _ids(asking, _questions(files)) == _ids(plain, _questions(files))
    assert asking.usage.images_encoded == 0


def _evaluate(data: Path, output: Path, *more: str) -> list[dict]:
    words = ["--model-path", str(MODEL), "--device", "cpu", "--tasks", "tiny_vqa", "--data-root", str(data)]
    assert evaluate([*words, "--latency-repeats", "0", "--output-dir", str(output), *more]) == 0
    return json.loads((output / "results.json").read_text())["rows"]


def test_evaluation_takes_stores_one_a_budget(build, inference, files, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    _folder_of(files, data / "images")
    asked = [
        {"question_id": number, "image": file.name, "text": "Which digit is it?", "answer": "3", "kind": "digit"}
        for number, file in enumerate(files)
    ]
    (data / "eval_vqa.json").write_text(json.dumps(asked))
    budgets = ["--compression", "visionzip:41+8", "--compression", "none"]
    expected = _evaluate(data, tmp_path / "live", *budgets)
    stores = []
    for name, budget in (("a", "visionzip:41+8"), ("b", "none")):
        stores += ["--image-store", str(build(tmp_path / name, budget, images=data / "images").folder)]
    shut(sorted((data / "images").iterdir()))
    found = _evaluate(data, tmp_path / "stored", *budgets, *stores)
    assert [row["images_from_store"] for row in found] == [6, 6] and not any(row["errors"] for row in found)
    for name in ("visionzip_41+8.jsonl", "none.jsonl"):
        live, stored = (tmp_path / run / "answers" / "tiny_vqa" / name for run in ("live", "stored"))
        assert live.read_bytes() == stored.read_bytes(), "key and answers alike: the store rounds nothing"
    assert [row["accuracy"] for row in found] == [row["accuracy"] for row in expected]
    words = ["--model-path", str(MODEL), "--device", "cpu", "--tasks", "tiny_vqa", "--data-root", str(data), *stores]
    with pytest.raises(SystemExit) as end:
        evaluate([*words, "--output-dir", str(tmp_path / "c"), "--compression", "visionzip:20+4"])
    assert "no store holds images of this model under compression visionzip:20+4" in str(end.value)


def test_answers_of_a_rounded_store_never_mix_with_others(build, files, tmp_path):
    store = build(tmp_path / "store", "visionzip:41+8", "--store-dtype", "int8")
    asking = Inference.load(MODEL, device="cpu", compression="visionzip:41+8", image_store=store)
    from llava.eval.answers_key import rounded_type

    assert rounded_type(asking) == "int8"


def test_chat_in_the_terminal(build, inference, files, closed, tmp_path, monkeypatch, capsys):
    store = build(tmp_path / "store", images=closed[0].parent)
    shut(closed)
    turns = iter(["Which digit is it?", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(turns))
    words = ["--model-path", str(MODEL), "--device", "cpu", "--compression", "visionzip:41+8", "--temperature", "0"]
    words += ["--max-new-tokens", "6", "--image-file", str(closed[0])]
    assert cli.main([*words, "--image-store", str(store.folder)]) == 0
    expected = Chat(inference, inference.open(files[:1])).say("Which digit is it?", options=OPTIONS)
    assert expected in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: cannot read image"):
        cli.main(words)
