"""The one way to ask: batches equal batch 1, and equal the reference's own greedy answers; images are encoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.images.source import UnreadableImageError
from llava.inference import Answer, GenerationOptions, Inference, Question
from llava.inference.batch_size import BatchSize
from llava.inference.latency import measure_latency
from llava.mm_utils import process_images, tokenizer_image_token

SHORT = GenerationOptions(max_new_tokens=8)


@pytest.fixture(scope="module", params=["tiny-llava-v1.5", "tiny-llava-v1.6-next"])
def inference(request: pytest.FixtureRequest, oracle_dir: Path) -> Inference:
    return Inference.load(oracle_dir / request.param, device="cpu", compression="visionzip:54+10")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    paths = []
    for number, (width, height) in enumerate([(320, 200), (100, 300), (224, 224)]):
        pixels = generator.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).resize((width, height)).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def questions(pictures: list[Path]) -> list[Question]:
    first, second, third = pictures
    return [
        Question("What is this?", (first,)),
        Question("Describe the picture in as many words as you like, please.", (second,)),
        Question("Hello there"),
        Question("Which of the two is larger?", (third, first)),
        Question("Count.", (first,)),
        Question("Is the first <image> like the second <image> one?", (second, first)),
        Question("Why?", (third,)),
    ]


def count_tower_runs(inference: Inference, runs: list[int]) -> torch.utils.hooks.RemovableHandle:
    embeddings = inference.model.model.vision_tower.embeddings
    return embeddings.register_forward_hook(lambda module, inputs, output: runs.append(len(output)))


@pytest.fixture(scope="module")
def alone(inference: Inference, questions: list[Question]) -> list[Answer]:
    return [inference.ask_one(question.text, *question.images, options=SHORT) for question in questions]


@pytest.mark.parametrize("batch_size", [3, 16])
def test_batches_answer_what_single_questions_get(
    inference: Inference, questions: list[Question], alone: list[Answer], batch_size: int
) -> None:
    together = sorted(inference.ask(questions, batch_size=batch_size, options=SHORT), key=lambda answer: answer.index)
    assert [answer.index for answer in together] == list(range(len(questions)))
    for one, other in zip(alone, together, strict=True):
        assert (one.token_ids, one.text) == (other.token_ids, other.text)
        assert (one.prompt_tokens, one.visual_tokens) == (other.prompt_tokens, other.visual_tokens)


def test_exact_shares_nothing_and_answers_the_same(
    inference: Inference, questions: list[Question], alone: list[Answer]
) -> None:
    parts = (inference.tokenizer, inference.model, inference.image_processor)
    exact = Inference(*parts, exact=True)
    seen: list[int] = []
    rows: list[int] = []
    handles = [
        count_tower_runs(exact, seen),
        exact.model.get_output_embeddings().register_forward_hook(lambda module, given, out: rows.append(len(out))),
    ]
    found = sorted(exact.ask(questions, batch_size=8, options=SHORT), key=lambda answer: answer.index)
    for handle in handles:
        handle.remove()
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in alone]
    assert set(rows) == {1} and exact.usage.encodes_saved == 0 and exact.usage.questions == len(questions)
    assert exact.usage.images_encoded == sum(len(question.images) for question in questions)
    for more in ({"compile": True}, {"image_workers": 2}):
        with pytest.raises(ValueError, match="exact asks questions one by one"):
            Inference(*parts, exact=True, **more)


def test_an_answer_is_what_llavas_calls_give(inference: Inference, pictures: list[Path]) -> None:
    answer = inference.ask_one("What is this?", pictures[1], options=SHORT)
    image = Image.open(pictures[1]).convert("RGB")
    prompt = inference.prompt(Question("What is this?", (pictures[1],)))
    assert prompt.count(f"USER: {DEFAULT_IMAGE_TOKEN}\nWhat is this? ASSISTANT:") == 1
    ids = tokenizer_image_token(prompt, inference.tokenizer, return_tensors="pt")
    output = inference.model.generate(
        ids.unsqueeze(0),
        images=process_images([image], inference.image_processor, inference.model.config),
        image_sizes=[image.size],
        do_sample=False,
        max_new_tokens=8,
    )
    assert list(answer.token_ids) == [token for token in output[0].tolist() if token != 2]


def test_a_shared_image_is_encoded_once(inference: Inference, pictures: list[Path]) -> None:
    # Far more questions than a batch, of different lengths, the images taking turns.
    questions = [Question("word " * (number % 7), (pictures[number % 3],)) for number in range(30)]
    runs: list[int] = []
    handle = count_tower_runs(inference, runs)
    try:
        answers = list(inference.ask(questions, batch_size=4, options=GenerationOptions(max_new_tokens=1)))
    finally:
        handle.remove()
    usage = inference.usage
    assert len(answers) == usage.questions == 30
    assert (usage.image_uses, usage.images_encoded, usage.encodes_saved) == (30, 3, 27)
    visual_tokens = sum(inference.model.num_visual_tokens([Image.open(path).size for path in pictures]))
    assert sum(runs) * 64 == visual_tokens, "every tile goes through the tower once"
    assert usage.visual_tokens == sum(answer.visual_tokens for answer in answers) == 10 * visual_tokens


def test_unreadable_images_are_named(inference: Inference, pictures: list[Path], tmp_path: Path) -> None:
    cut, missing, text = tmp_path / "cut.png", tmp_path / "missing.png", tmp_path / "text.png"
    cut.write_bytes(pictures[0].read_bytes()[:300])
    text.write_text("not an image")
    questions = [Question("a", (bad,)) for bad in (cut, missing, text)] + [Question("a", (pictures[0],))]
    answers = sorted(
        inference.ask(questions, batch_size=4, options=SHORT, skip_errors=True), key=lambda answer: answer.index
    )
    assert [path.name in (answer.error or "") for path, answer in zip((cut, missing, text), answers, strict=False)] == [
        True
    ] * 3
    assert answers[3].error is None and answers[3].token_ids
    assert inference.usage.questions == 1
    for question in questions[:3]:
        with pytest.raises(UnreadableImageError, match=str(question.images[0])):
            list(inference.ask([question]))


def test_wrong_requests_are_refused(inference: Inference, pictures: list[Path]) -> None:
    with pytest.raises(ValueError, match="2 <image> but 1 images"):
        inference.ask_one("<image> and <image>", pictures[0])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        list(inference.ask([Question("a")], batch_size=0))
    with pytest.raises(ValueError, match="no conversation template 'v9'"):
        Inference(inference.tokenizer, inference.model, inference.image_processor, conv_mode="v9")


def test_an_answer_ends_at_the_templates_separator(inference: Inference, pictures: list[Path]) -> None:
    """With a template whose separator is no end token, what the model says after it is not part of the answer."""
    v0 = Inference(inference.tokenizer, inference.model, inference.image_processor, conv_mode="v0")
    free = v0.ask_one("What is this?", pictures[0], options=SHORT)
    assert free.text and v0.stop_kwargs()["stop_strings"] == ["###"]
    assert inference.stop_kwargs() == {}
    assert v0.decode(v0.tokenizer("red ###", add_special_tokens=False).input_ids) == "red"


def test_latency_counts_tokens(inference: Inference, pictures: list[Path]) -> None:
    question = Question("What is this?", (pictures[2],))
    cost = measure_latency(inference, question, warmup=1, repeats=3)
    answer = inference.ask_one(question.text, *question.images, options=SHORT)
    assert (cost.visual_tokens, cost.prompt_tokens) == (answer.visual_tokens, answer.prompt_tokens)
    assert cost.vision_ms > 0 and cost.prefill_ms > 0


def test_a_batch_that_is_too_large_is_halved_and_nothing_is_lost(
    inference: Inference, questions: list[Question], alone: list[Answer]
) -> None:
    """The language model refuses more than two rows, as a full card does, before and while it answers."""
    tried: list[int] = []

    def refuse(module: object, arguments: tuple[object, ...], keywords: dict[str, torch.Tensor]) -> None:
        rows = len(keywords["inputs_embeds"] if keywords.get("inputs_embeds") is not None else keywords["input_ids"])
        tried.append(rows)
        if rows > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = inference.model.model.language_model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        answers = sorted(inference.ask(questions, batch_size=None, options=SHORT), key=lambda answer: answer.index)
        used = inference.usage
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            list(inference.ask(questions, batch_size=3, options=SHORT))
    finally:
        handle.remove()
    assert [(one.index, one.token_ids, one.text) for one in answers] == [
        (number, one.token_ids, one.text) for number, one in enumerate(alone)
    ]
    assert (used.questions, used.images_encoded) == (len(questions), 3)
    too_large = [rows for rows in tried if rows > 2]
    assert (
        too_large and too_large == sorted(too_large[:-1], reverse=True) + too_large[-1:]
    )  # the last of the fixed size


def test_one_question_that_does_not_fit_is_an_error(inference: Inference) -> None:
    size = BatchSize(inference.model, None)
    error = torch.OutOfMemoryError("CUDA out of memory")
    assert size.for_next([10] * 50, 8) == 8, "on a CPU a fixed size"
    size.halve(7, error)
    assert size.for_next([10] * 50, 8) == 3
    with pytest.raises(torch.OutOfMemoryError):
        size.halve(1, error)


def test_the_first_guess_follows_the_free_memory(inference: Inference, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu:
        device, dtype, config = torch.device("cuda"), torch.float16, inference.model.config

    size = BatchSize(OnGpu(), None)
    one = size._bytes(700, 128)
    config = inference.model.config.get_text_config()
    kv_width = config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    assert one > 2 * 2 * config.num_hidden_layers * kv_width * 828
    for free, expected in ((100 * one, 64), (10 * one, 7), (one // 2, 1)):
        monkeypatch.setattr("llava.inference.batch_size._free_bytes", lambda device, free=free: free)
        assert size.for_next([700] * 100, 128) == expected
