"""What questions about the same images share is computed once, and changes nothing of what is answered."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import CompileConfig, DynamicCache, MistralConfig, StaticCache

from llava.inference import Answer, GenerationOptions, Inference, Question
from llava.inference.generation import Generator, Prompt
from llava.inference.prefix import PrefixStore, compute_prefixes, fill_cache, prefix_length, shared_prefixes
from llava.prompts.around import pad_left

OPTIONS = GenerationOptions(max_new_tokens=6)


@pytest.fixture(scope="module", params=["tiny-llava-v1.5", "tiny-llava-v1.6-next"])
def inference(request: pytest.FixtureRequest, oracle_dir: Path) -> Inference:
    return Inference.load(oracle_dir / request.param, device="cpu", compression="visionzip:54+10")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    sizes = [(320, 200), (100, 300), (224, 224)]
    return [Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


@pytest.fixture(scope="module")
def questions(pictures: list[Image.Image]) -> list[Question]:
    first, second, third = pictures
    return [
        Question("What is this?", (first,)),
        Question("Name the colours that you see in it, the brightest one first.", (first,)),
        Question("Hello there"),
        Question("Count.", (second,)),
        Question("Which of the two is larger?", (third, first)),
        Question("Why?", (first,)),
        Question("Is the first <image> like the second <image> one?", (third, first)),
        Question("Which of the two is darker?", (third, first)),
    ]


def without_sharing(inference: Inference) -> Inference:
    parts = inference.tokenizer, inference.model, inference.image_processor
    return Inference(*parts, conv_mode=inference.conv_mode, reuse_prefixes=False)


def without_state(inference: Inference) -> Inference:
    return Inference(inference.tokenizer, inference.model, inference.image_processor, conv_mode=inference.conv_mode)


def ask(inference: Inference, questions: list[Question], **options: Any) -> list[Answer]:
    return sorted(inference.ask(questions, **({"options": OPTIONS} | options)), key=lambda answer: answer.index)


def tokens_seen(inference: Inference, questions: list[Question], batch_size: int) -> list[tuple[int, int]]:
    """(rows, tokens) of each pass of the language model over a prompt."""
    seen: list[tuple[int, int]] = []

    def note(module: object, args: object, kwargs: dict[str, Tensor]) -> None:
        if kwargs["inputs_embeds"] is not None and kwargs["inputs_embeds"].shape[1] > 1:
            seen.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    hook = inference.model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    ask(inference, questions, batch_size=batch_size)
    hook.remove()
    return seen


@pytest.fixture(scope="module")
def alone(inference: Inference, questions: list[Question]) -> list[Answer]:
    return [without_sharing(inference).ask_one(q.text, *q.images, options=OPTIONS) for q in questions]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_are_those_of_whole_prompts(
    inference: Inference, questions: list[Question], alone: list[Answer], batch_size: int
) -> None:
    shared = ask(inference, questions, batch_size=batch_size)
    assert [answer.token_ids for answer in shared] == [answer.token_ids for answer in alone]
    assert [answer.prompt_tokens for answer in shared] == [answer.prompt_tokens for answer in alone]
    assert len({answer.token_ids for answer in alone}) > 3  # else equality says little


def test_logits_are_those_of_whole_prompts(inference: Inference, pictures: list[Image.Image]) -> None:
    """Two images of different length in NeXT, and a prompt without one, so that all rows are padded differently."""
    model = inference.model
    features = inference.encode(pictures[:2])
    questions = [Question("What is this?", (pictures[0],)), Question("Count it, please.", (pictures[1],))]
    ids = [inference.tokenize(inference.prompt(question)) for question in questions]
    split = [prefix_length(row) for row in ids]
    text = inference.tokenize(inference.prompt(Question("Hello there")))

    prefixes = compute_prefixes(model, [row[:at] for row, at in zip(ids, split, strict=True)], features)
    cache = DynamicCache(config=model.config.get_text_config())
    held = fill_cache(cache, [*prefixes, None, prefixes[0]])
    rest = [*(row[at:] for row, at in zip(ids, split, strict=True)), text, ids[0][split[0] :]]
    rest_ids, rest_mask = pad_left(rest, 0)
    mask = torch.cat([held, rest_mask], dim=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, held.shape[1] :]
    with torch.inference_mode():
        found = model(rest_ids, attention_mask=mask, position_ids=positions, past_key_values=cache).logits
        for row, (whole, image) in enumerate([(ids[0], [0]), (ids[1], [1]), (text, []), (ids[0], [0])]):
            plain = model(torch.tensor([whole]), image_features=[features[number] for number in image]).logits
            after = len(rest[row])
            torch.testing.assert_close(found[row, -after:], plain[0, -after:], atol=1e-5, rtol=1e-5)


def test_a_shared_image_is_seen_once_by_the_language_model(inference: Inference, pictures: list[Image.Image]) -> None:
    questions = [Question(f"What is thing number {number}?", (pictures[0],)) for number in range(6)]
    whole = ask(without_sharing(inference), questions[:1])[0].prompt_tokens
    shared = tokens_seen(inference, questions, batch_size=2)
    assert shared[0][0] == 1  # one prefix
    assert all(rows == 2 for rows, _ in shared[1:]) and len(shared) == 4
    assert shared[0][1] + shared[1][1] in (whole, whole + 1)  # a number may take two ids
    assert shared[0][1] > 64  # the image is in it
    assert [rows for rows, _ in tokens_seen(without_sharing(inference), questions, batch_size=2)] == [2, 2, 2]


def test_of_different_images_the_system_prompt_is_seen_once(inference: Inference, pictures: list[Image.Image]) -> None:
    questions = [Question("What is this?", (picture,)) for picture in pictures]
    plain = [without_sharing(inference).ask_one(q.text, *q.images, options=OPTIONS) for q in questions]
    assert [answer.token_ids for answer in ask(inference, questions)] == [answer.token_ids for answer in plain]
    first, *rest = tokens_seen(inference, questions, batch_size=2)
    before_image = inference.tokenize(inference.prompt(questions[0])).index(-200)
    assert first == (1, before_image) and [rows for rows, _ in rest] == [2, 1]
    assert max(length for _, length in rest) == max(answer.prompt_tokens for answer in plain) - before_image


def test_one_question_is_not_split(inference: Inference, pictures: list[Image.Image]) -> None:
    assert [rows for rows, _ in tokens_seen(inference, [Question("What is this?", (pictures[0],))], 1)] == [1]
    pair = [Question("What is this?", (pictures[0],)), Question("Hello")]
    assert [rows for rows, _ in tokens_seen(inference, pair, 2)] == [2]


def test_beams_and_cut_prompts_are_computed_as_a_whole(inference: Inference, questions: list[Question]) -> None:
    beams = GenerationOptions(max_new_tokens=4, num_beams=2)
    pair = [questions[0], questions[5]]
    expected = [a.token_ids for a in without_sharing(inference).ask(pair, options=beams)]
    assert [a.token_ids for a in inference.ask(pair, options=beams)] == expected
    inference.model.config.tokenizer_model_max_length = 40
    try:
        cut = ask(inference, pair)
        assert all(answer.truncated for answer in cut)
        assert [a.token_ids for a in cut] == [a.token_ids for a in ask(without_sharing(inference), pair)]
    finally:
        del inference.model.config.tokenizer_model_max_length


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> list[PrefixStore]:
    """Those that calls of `ask` make, as they make them."""
    made: list[PrefixStore] = []

    class Recorded(PrefixStore):
        def __init__(self, uses: Any) -> None:
            super().__init__(uses)
            made.append(self)

    monkeypatch.setattr("llava.inference.window.PrefixStore", Recorded)
    return made


def test_few_prefixes_are_held_at_a_time(
    inference: Inference, pictures: list[Image.Image], stores: list[PrefixStore]
) -> None:
    questions = [Question(f"What is thing number {n}?", (picture,)) for picture in pictures for n in range(4)]
    held = [len(stores[0].kept) for _ in inference.ask(questions, batch_size=2, options=OPTIONS)]
    assert max(held) == 1 and not stores[0].kept


def test_a_full_memory_gives_the_prefixes_back(
    inference: Inference, pictures: list[Image.Image], stores: list[PrefixStore], alone: list[Answer]
) -> None:
    questions = [Question(f"What is thing number {n}?", (pictures[0],)) for n in range(6)]
    expected = [answer.token_ids for answer in ask(inference, questions)]
    held: list[int] = []

    def refuse(module: object, args: object, kwargs: dict[str, Tensor]) -> None:
        rows = len(kwargs["inputs_embeds"] if kwargs["inputs_embeds"] is not None else kwargs["input_ids"])
        held.append(len(stores[-1].kept))
        if rows > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = inference.model.model.language_model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        answers = ask(inference, questions, batch_size=None)
    finally:
        hook.remove()
    assert [answer.token_ids for answer in answers] == expected
    assert held[:4] == [0, 1, 0, 1]  # the prefix, the batch that is refused, and both again


def test_text_alone_is_shared_where_it_is_worth_it() -> None:
    text, image = list(range(10)), -200
    two = [([*text, image, 50], ["a"], 60), ([*text, image, 51], ["b"], 60)]
    assert shared_prefixes(two, text_too=True) == [(tuple(text), ())] * 2
    assert shared_prefixes(two, text_too=False) == [None, None]
    far = [(ids, images, 500) for ids, images, _ in two]
    assert shared_prefixes(far, text_too=True) == [None, None], "a tenth of the prompt is the least"
    same = [(ids, ["a"], 500) for ids, _, _ in two]
    assert shared_prefixes(same, text_too=False) == [((*text, image), ("a",))] * 2
    assert shared_prefixes([*same, ([1, 2], [], 2)], text_too=True)[-1] is None


def test_layers_that_forget_are_computed_as_a_whole(inference: Inference, pictures: list[Image.Image]) -> None:
    text = inference.model.config.text_config
    shape = {name: getattr(text, name) for name in ("vocab_size", "hidden_size", "intermediate_size")}
    heads = {name: getattr(text, name) for name in ("num_attention_heads", "num_key_value_heads")}
    config = copy.deepcopy(inference.model.config)
    config.text_config = MistralConfig(**shape, **heads, num_hidden_layers=2, sliding_window=50)
    torch.manual_seed(0)
    model = type(inference.model)(config).eval()
    model.model.vision_tower.load_state_dict(inference.model.model.vision_tower.state_dict())
    asked = Inference(inference.tokenizer, model, inference.image_processor, conv_mode=inference.conv_mode)
    questions = [Question(f"What is thing number {n}?", (pictures[0],)) for n in range(3)]
    assert [rows for rows, _ in tokens_seen(asked, questions, batch_size=3)] == [3]
    config.text_config.sliding_window = None
    assert [rows for rows, _ in tokens_seen(without_state(asked), questions, batch_size=3)] == [1, 3]


def test_a_batch_has_as_many_rows_as_a_graph(inference: Inference, pictures: list[Image.Image]) -> None:
    generator = Generator(inference.model, 0, compile=True)
    assert [generator.batch_for(fit, 100) for fit in (1, 3, 7, 8, 15, 16, 63)] == [1, 2, 4, 8, 8, 16, 56]
    assert generator.batch_for(13, 13) == 13  # the last ones are filled up
    assert Generator(inference.model, 0).batch_for(13, 100) == 13
    assert generator.held_bytes == 0
    ids = inference.tokenize(inference.prompt(Question("Why?", (pictures[0],))))
    generator.generate([Prompt(ids, inference.encode(pictures[:1]))], max_new_tokens=2, do_sample=False)
    text = inference.model.config.text_config
    length = generator._static[1] if generator._static else 0
    width = text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    assert generator.held_bytes == 2 * text.num_hidden_layers * length * width * 4


def test_prefixes_are_let_go_when_no_question_needs_them(inference: Inference, pictures: list[Image.Image]) -> None:
    ids = inference.tokenize(inference.prompt(Question("Why?", (pictures[0],))))
    key = (tuple(ids[: prefix_length(ids)]), ("0",))
    store = PrefixStore({key: 3})  # type: ignore[arg-type]
    prompt = Prompt(ids, inference.encode(pictures[:1]), key)
    generator = Generator(inference.model, inference.pad_token_id)
    generator.generate([prompt, prompt], store, max_new_tokens=2, do_sample=False)
    store.release([key, key])
    assert set(store.kept) == {key}
    store.release([key])
    assert not store.kept


def test_a_static_cache_answers_alike_and_is_kept(inference: Inference, pictures: list[Image.Image]) -> None:
    parts = inference.tokenizer, inference.model, inference.image_processor
    compiled = Inference(*parts, conv_mode=inference.conv_mode, compile=True)  # on a CPU only the cache is another
    questions = [Question(f"What is {'or ' * (number % 3)}this?", (pictures[number // 3],)) for number in range(6)]
    for part in (questions[:3], questions[3:]):  # images of two sizes, so in NeXT prompts of two lengths
        expected = ask(inference, part)
        ids = [answer.token_ids for answer in expected]
        assert [answer.token_ids for answer in ask(compiled, part, batch_size=3)] == ids
        batch, length, cache = compiled.generator._static or (0, 0, None)
        assert isinstance(cache, StaticCache)
        assert batch == 4  # 3, filled up
        longest = max(answer.prompt_tokens for answer in expected) + OPTIONS.max_new_tokens
        assert longest <= length <= longest + 2 * 64  # sized by the compressed prompts
        assert [answer.token_ids for answer in ask(compiled, part, batch_size=3)] == ids
        assert compiled.generator._static is not None and compiled.generator._static[2] is cache


def test_few_static_caches_are_made(inference: Inference, pictures: list[Image.Image], monkeypatch: Any) -> None:
    made: list[int] = []

    class Counted(StaticCache):
        def __init__(self, config: Any, max_cache_len: int) -> None:
            made.append(max_cache_len)
            super().__init__(config, max_cache_len)

    monkeypatch.setattr("llava.inference.generation.StaticCache", Counted)
    parts = inference.tokenizer, inference.model, inference.image_processor
    compiled = Inference(*parts, conv_mode=inference.conv_mode, compile=True)
    questions = [Question(f"Is it {'or ' * (7 * (n % 16))}this?", (pictures[2],)) for n in range(48)]
    ask(compiled, questions, batch_size=2, options=GenerationOptions(max_new_tokens=1))
    assert len(made) <= 4  # two windows, of 105 lengths


def test_a_compiled_step_is_one_graph_for_all_batches(inference: Inference, pictures: list[Image.Image]) -> None:
    """As on a GPU, but for the backend: no break in the graph, and none made anew for batches of about one size."""
    parts = inference.tokenizer, inference.model, inference.image_processor
    compiled = Inference(*parts, conv_mode=inference.conv_mode, compile=True)
    settings = CompileConfig(fullgraph=True, mode="default", backend="eager")
    settings._compile_all_devices = True
    torch._dynamo.reset()
    counters.clear()
    inference.model.generation_config.compile_config = settings
    try:
        for count in (8, 5, 16):
            questions = [
                Question(f"What is thing {'or ' * (number % 4)}this?", (pictures[0],)) for number in range(count)
            ]
            found = [answer.token_ids for answer in ask(compiled, questions, batch_size=8)]
            inference.model.generation_config.compile_config = None
            assert found == [answer.token_ids for answer in ask(inference, questions, batch_size=8)]
            inference.model.generation_config.compile_config = settings
    finally:
        inference.model.generation_config.compile_config = None
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
