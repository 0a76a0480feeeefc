"""Chat: a later turn equals a fresh run over the whole conversation, and computes only what is new."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from llava.inference import GenerationOptions, Inference
from llava.model.any_budget import bind, read_image, tokens_under
from llava.serve import cli
from llava.serve.chat import Chat
from tests.images.test_download import Server, server

__all__ = ["server"]

SHORT = GenerationOptions(max_new_tokens=8)


@pytest.fixture(scope="module", params=["tiny-llava-v1.5", "tiny-llava-v1.6-next"])
def inference(request: pytest.FixtureRequest, oracle_dir: Path) -> Inference:
    return Inference.load(oracle_dir / request.param, device="cpu", compression="visionzip:54+10")


@pytest.fixture
def picture(oracle_dir: Path) -> Path:
    return oracle_dir / "images" / "landscape.png"


def fresh_answer(inference: Inference, ids: list[int], picture: Path) -> list[int]:
    """LLaVA's own call over the whole conversation, the picture encoded anew and no cache kept."""
    with Image.open(picture) as file:
        image = file.convert("RGB")
    output = inference.model.generate(
        torch.tensor([ids]),
        images=inference.preprocess([image]),
        image_sizes=[image.size],
        do_sample=False,
        max_new_tokens=8,
        **inference.stop_kwargs(),
    )
    return [token for token in output[0].tolist() if token != inference.tokenizer.eos_token_id]


@pytest.mark.parametrize("conv_mode", ["v1", "v0", "llava_llama_2"])
def test_later_turns_equal_fresh_runs_and_see_the_image_once(
    inference: Inference, picture: Path, conv_mode: str
) -> None:
    inference = Inference(inference.tokenizer, inference.model, inference.image_processor, conv_mode=conv_mode)
    chat = Chat(inference, [picture])
    tower_runs: list[int] = []
    widths: list[int] = []
    embeddings = inference.model.model.vision_tower.embeddings
    norm = inference.model.model.language_model.norm
    handles = [
        embeddings.register_forward_hook(lambda module, inputs, output: tower_runs.append(1)),
        norm.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[1])),
    ]
    first_widths = []
    try:
        for text in ("What is this?", "And what else?", "Why?"):
            widths.clear()
            chat.say(text, options=SHORT)
            first_widths.append(widths[0])
    finally:
        for handle in handles:
            handle.remove()
    assert len(tower_runs) == 1
    visual = inference.model.num_visual_tokens([Image.open(picture).size])[0]
    assert visual >= 64 and first_widths[0] > visual
    # A later turn computes its own words (and the last id of the answer before), not the image's tokens again.
    for turn in (1, 2):
        new = chat.answer_spans[turn][0] - chat.answer_spans[turn - 1][1]
        assert first_widths[turn] in (new, new + 1)
    for start, end in chat.answer_spans:
        assert chat.token_ids[start:end] == fresh_answer(inference, chat.token_ids[:start], picture)


def test_a_new_conversation_knows_the_image_already(inference: Inference, picture: Path) -> None:
    chat = Chat(inference, [picture])
    for text in ("What is this?", "Why?"):
        chat.say(text, options=SHORT)
    before = chat.token_ids
    chat.restart()
    assert chat.token_ids == [] and chat.messages == [] and chat.answer_spans == []
    embeddings = inference.model.model.vision_tower.embeddings
    widths: list[int] = []
    handle = inference.model.model.language_model.norm.register_forward_hook(
        lambda module, inputs, output: widths.append(output.shape[1])
    )
    tower = embeddings.register_forward_hook(lambda module, inputs, output: widths.append(-1))
    chat.say("Count.", options=SHORT)
    handle.remove(), tower.remove()
    visual = inference.model.num_visual_tokens([Image.open(picture).size])[0]
    assert -1 not in widths and 1 < widths[0] < visual
    (start, end) = chat.answer_spans[0]
    assert chat.token_ids[start:end] == fresh_answer(inference, chat.token_ids[:start], picture)
    assert chat.token_ids[:start] != before[:start]

    chat.restart()
    chat.say("Is it <image> or not?", options=SHORT)  # the image stands elsewhere: nothing can be taken over
    (start, end) = chat.answer_spans[0]
    assert chat.token_ids[start:end] == fresh_answer(inference, chat.token_ids[:start], picture)


def test_the_conversation_is_the_templates(inference: Inference, picture: Path) -> None:
    """Between the answers stand exactly the ids that the template's own text has there."""
    chat = Chat(inference, [picture])
    first = chat.say("What is this?", options=SHORT)
    start, end = chat.answer_spans[0]
    chat.say("And what else?", options=SHORT)
    between = chat.token_ids[end : chat.answer_spans[1][0]]
    assert inference.tokenizer.decode(between) == "</s>USER: And what else? ASSISTANT:"
    assert between[0] == inference.tokenizer.eos_token_id
    assert inference.tokenizer.decode(chat.token_ids[start:end], skip_special_tokens=True).strip() == first
    assert chat.messages[0] == ("What is this?", first)


def test_streamed_pieces_are_the_answer(inference: Inference, picture: Path) -> None:
    pieces: list[str] = []
    answer = Chat(inference, [picture]).say("What is this?", options=SHORT, on_text=pieces.append)
    assert "".join(pieces).strip() == answer
    assert answer == Chat(inference, [picture]).say("What is this?", options=SHORT)


def test_an_interrupted_turn_leaves_no_trace(inference: Inference, picture: Path) -> None:
    def interrupt(piece: str) -> None:
        raise KeyboardInterrupt

    chat, undisturbed = Chat(inference, [picture]), Chat(inference, [picture])
    for each in (chat, undisturbed):
        each.say("What is this?", options=SHORT)
    with pytest.raises(KeyboardInterrupt):
        chat.say("And what else?", options=SHORT, on_text=interrupt)
    assert chat.token_ids == undisturbed.token_ids
    assert chat.say("Why?", options=SHORT) == undisturbed.say("Why?", options=SHORT)
    assert chat.token_ids == undisturbed.token_ids


def test_wrong_messages_are_refused(inference: Inference, picture: Path) -> None:
    chat = Chat(inference, [picture])
    with pytest.raises(ValueError, match="empty message"):
        chat.say("  ")
    chat.say("What is this?", options=SHORT)
    with pytest.raises(ValueError, match="first message"):
        chat.say("And this <image>?")


def test_a_conversation_too_long_is_refused_and_left_as_it_was(
    inference: Inference, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, undisturbed = Chat(inference, [picture]), Chat(inference, [picture])
    for each in (chat, undisturbed):
        each.say("What is this?", options=SHORT)
    visual = inference.model.num_visual_tokens([Image.open(picture).size])[0]
    limit = len(chat.token_ids) - 1 + visual + 20
    monkeypatch.setattr(inference.model.config, "tokenizer_model_max_length", limit, raising=False)
    with pytest.raises(ValueError, match=rf"tokens long, images included, and the model sees {limit}"):
        chat.say("And what else? " * 10, options=SHORT)
    assert (chat.token_ids, chat.messages) == (undisturbed.token_ids, undisturbed.messages)
    assert chat.say("Why?", options=SHORT) == undisturbed.say("Why?", options=SHORT)
    start, end = chat.answer_spans[1]
    assert chat.token_ids[start:end] == fresh_answer(inference, chat.token_ids[:start], picture)


def test_cli_tells_a_turns_error_and_goes_on(
    oracle_dir: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a <image> <image>\nWhat?\nand <image>?\nWhy?\n"))
    flags = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--image-file", str(picture), "--device", "cpu"]
    flags += ["--temperature", "0", "--max-new-tokens", "4", "--compression", "visionzip:54+10"]
    assert cli.main([*flags, "--conv-mode", "chatml_direct"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("assistant: ")[2].startswith("error: ") for line in lines[:-1]] == [True, False, True, False]
    assert "<|im_start|>" not in lines[0] and lines[0].startswith("user: ")


def test_cli_refuses_options_out_of_range(oracle_dir: Path) -> None:
    with pytest.raises(SystemExit, match="error: max_new_tokens"):
        cli.main(["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--device", "cpu", "--max-new-tokens", "0"])


def test_cli_chats_until_the_input_ends(
    oracle_dir: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is this?\nAnd what else?\n"))
    model = str(oracle_dir / "tiny-llava-v1.5")
    flags = ["--temperature", "0", "--max-new-tokens", "8", "--device", "cpu", "--compression", "visionzip:54+10"]
    assert cli.main(["--model-path", model, "--image-file", str(picture), *flags]) == 0
    said = capsys.readouterr().out
    chat = Chat(Inference.load(model, device="cpu", compression="visionzip:54+10"), [picture])
    expected = [chat.say(text, options=SHORT) for text in ("What is this?", "And what else?")]
    assert all(answer in said for answer in expected)
    assert said.count("USER: ") == 3 and said.count("ASSISTANT: ") == 2 and said.rstrip().endswith("exit...")


def test_an_answer_ends_where_it_is_told_to_and_the_conversation_goes_on(inference: Inference, picture: Path) -> None:
    chat, whole = Chat(inference, [picture]), Chat(inference, [picture])
    whole.say("What is this?", options=SHORT)
    left = iter([True, True, False])
    chat.say("What is this?", options=SHORT, goes_on=lambda: next(left))
    (start, end) = chat.answer_spans[0]
    assert end - start == 3 and chat.token_ids == whole.token_ids[:end]
    chat.say("Why?", options=SHORT)
    (start, end) = chat.answer_spans[1]
    assert chat.token_ids[start:end] == fresh_answer(inference, chat.token_ids[:start], picture)


def test_another_budget_in_the_middle_is_a_fresh_run_under_it(inference: Inference, picture: Path) -> None:
    """The tower runs once; what was said before is read anew with the new tokens."""
    image = inference.open([picture])[0]
    read = read_image(inference.model, inference.preprocess([image]), image.size)

    class Under:
        chooses_by_question = False

        def __init__(self, budget: str) -> None:
            self.budget = budget

        def features(self, text: str) -> list[torch.Tensor]:
            return [tokens_under(inference.model, read, bind(inference.model, self.budget), text)]

    chat = Chat(inference, [image], Under("visionzip:54+10"))
    chat.say("What is this?", options=SHORT)
    tokens = chat.visual_tokens
    chat.look_anew(Under("visionzip:9+3"))
    before = inference.model.compression
    try:
        inference.model.set_compression("visionzip:9+3")
        chat.say("Why?", options=SHORT)
        (start, end) = chat.answer_spans[1]
        assert chat.token_ids[start:end] == fresh_answer(inference, chat.token_ids[:start], picture)
    finally:
        inference.model.set_compression(before)
    assert chat.visual_tokens < tokens and chat.messages[0][0] == "What is this?"


def test_cli_fetches_from_public_addresses_unless_told_otherwise(
    server: Server, oracle_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--device", "cpu"]
    for named in (["--image-file", f"{server.url}/a.png"], ["--video-file", f"{server.url}/a.mp4"]):
        for store in ([], ["--image-store", "nowhere"]):
            with pytest.raises(SystemExit, match=r"leads to a private address \(--allow-private-urls"):
                cli.main([*flags, *named, *store])
    assert not server.requests
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert cli.main([*flags, "--image-file", f"{server.url}/a.png", "--allow-private-urls"]) == 0
    assert len(server.requests) == 1 and "exit..." in capsys.readouterr().out
