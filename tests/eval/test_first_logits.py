"""A model whose logits are not finite ends with an error that names it, at every door, and costs no further copy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from llava.eval.command import main as evaluate
from llava.eval.kits.likelihood import likelihoods
from llava.eval.run_llava import main as run_llava
from llava.inference import GenerationOptions, Inference, Question
from llava.inference.first_logits import NOT_FINITE, FirstLogits, NotFiniteError
from llava.serve.chat import Chat
from tests.eval import layout

SHORT = GenerationOptions(max_new_tokens=4)


@pytest.fixture(scope="module")
def broken(oracle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, one weight of which is not a number."""
    folder = tmp_path_factory.mktemp("broken") / "model"
    shutil.copytree(oracle_dir / "tiny-llava-v1.5", folder)
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name in tensors:
            if name.endswith("layers.0.mlp.down_proj.weight"):
                tensors[name][0, 0] = float("nan")
        save_file(tensors, file, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.new("RGB", (40, 30), "red").save(path)
    return path


@pytest.fixture(scope="module")
def inference(broken: Path) -> Inference:
    return Inference.load(broken, device="cpu")


@pytest.mark.parametrize("options", [SHORT, GenerationOptions(4, temperature=1.0), GenerationOptions(4, num_beams=2)])
@pytest.mark.parametrize("skip_errors", [False, True])
def test_a_model_with_nan_weights_is_named(
    inference: Inference, broken: Path, picture: Path, options: GenerationOptions, skip_errors: bool
) -> None:
    questions = [Question("What?", (picture,)), Question("Which?", (picture,)), Question("Hello")]
    with pytest.raises(NotFiniteError, match=rf"{broken}: the model's logits are not finite .*torch\.float32"):
        list(inference.ask(questions, batch_size=2, options=options, skip_errors=skip_errors))


def test_chat_and_likelihoods_name_it_too(inference: Inference, picture: Path) -> None:
    chat = Chat(inference, [picture])
    pieces: list[str] = []
    for on_text in (None, pieces.append):
        with pytest.raises(NotFiniteError, match="not finite"):
            chat.say("What?", options=SHORT, on_text=on_text)
    assert chat.messages == [] and chat.token_ids == [] and pieces == []
    with pytest.raises(NotFiniteError, match="not finite"):
        list(likelihoods(inference, [(Question("What?", (picture,)), "cat")]))


def test_commands_end_in_a_line(
    broken: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=rf"^error: {broken}: {NOT_FINITE}"):
        run_llava(["--model-path", str(broken), "--image-file", str(picture), "--query", "What?", "--device", "cpu"])
    folder = tmp_path / "gqa" / "data" / "images"
    folder.mkdir(parents=True)
    shutil.copy(picture, folder / "n1.jpg")
    layout.write_gqa(tmp_path, [{"question": "What?", "answer": "cat", "imageId": "n1"}])
    flags = ["--model-path", str(broken), "--tasks", "gqa", "--data-root", str(tmp_path), "--device", "cpu"]
    assert evaluate([*flags, "--output-dir", str(tmp_path / "out")]) == 1
    assert f"error: {broken}: {NOT_FINITE}" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


def test_one_question_of_many_that_overflows_is_an_error_of_its_own(
    oracle_dir: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inference = Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu")
    questions = [Question(text, (picture,)) for text in ("What is in this picture?", "Why?")]
    expected = {answer.index: answer.text for answer in inference.ask(questions, options=SHORT)}

    def overflow(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        output[0] = torch.inf
        return output

    handle = inference.model.get_output_embeddings().register_forward_hook(overflow)
    found = {answer.index: answer for answer in inference.ask(questions, options=SHORT, skip_errors=True)}
    with pytest.raises(NotFiniteError):
        list(inference.ask(questions, options=SHORT))
    handle.remove()
    errors = [answer.error for _, answer in sorted(found.items())]
    assert sorted(map(str, errors)) == sorted(["None", NOT_FINITE])
    assert all(answer.text == ("" if answer.error else expected[index]) for index, answer in found.items())


def test_the_verdict_comes_with_the_ids_and_stays_on_their_device() -> None:
    """On `meta` every operation is seen: nothing is made elsewhere, and nothing is copied to the host."""
    places = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            places.extend(each.device.type for each in (found, *args) if isinstance(each, torch.Tensor))
            return found

    class Head(torch.nn.Linear):
        def get_output_embeddings(self) -> torch.nn.Module:
            return self

    with torch.device("meta"):
        head, hidden, ids = Head(8, 20), torch.empty(6, 1, 8), torch.empty(2, 5, dtype=torch.int64)
    with torch.no_grad(), Watch():
        with FirstLogits(head) as first:
            head(hidden)
            head(hidden[:1])  # a later step is not looked at
        fetched = first.beside(ids, beams=3)
    assert fetched.shape == (2, 6) and fetched.dtype == torch.int64 and set(places) == {"meta"}
    assert not head._forward_hooks
