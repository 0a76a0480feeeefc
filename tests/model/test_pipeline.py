"""What people do with a model and a processor in transformers: pipeline, batches, streams, samples, beams, adapters.

Uncompressed, everything equals transformers' own classes on the same folder. Compressed, it equals LLaVA's calling
convention on the same model, which the recordings of the reference prove.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig, TextIteratorStreamer, pipeline
from transformers.models.auto import AutoModelForImageTextToText, AutoProcessor

from llava import (
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    load_pretrained_model,
)
from llava.images.processing import process_images
from tests.model.folders import HF_MODELS, HF_PROCESSORS, KINDS, QUESTIONS, ROOT, chat, image, save_transformers_folder

OURS = {
    "llava": (LlavaForConditionalGeneration, LlavaProcessor),
    "llava_next": (LlavaNextForConditionalGeneration, LlavaNextProcessor),
}
BUDGET = "visionzip:5+2"
CASES = [(kind, compression) for kind in KINDS for compression in (None, BUDGET)]
CHATS = [
    chat(QUESTIONS[0], image()),
    chat(QUESTIONS[1]),
    chat(QUESTIONS[2], image("portrait"), image("small")),
]
GREEDY = {"do_sample": False, "max_new_tokens": 6}
WAYS = {
    "greedy": GREEDY,
    "sampled": {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "max_new_tokens": 6},
    "beams": {"num_beams": 3, "do_sample": False, "max_new_tokens": 6},
    "several": {"num_return_sequences": 2, "do_sample": True, "max_new_tokens": 6},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {kind: save_transformers_folder(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1] or 'none'}")
def pair(request, folders) -> SimpleNamespace:
    """Our model and processor of a folder, and transformers' own."""
    kind, compression = request.param
    model_class, processor_class = OURS[kind]
    model = model_class.from_pretrained(folders[kind], compression=compression).eval()
    processor = processor_class.from_pretrained(folders[kind])
    processor.set_compression(model.compression)
    return SimpleNamespace(
        kind=kind,
        compression=compression,
        folder=folders[kind],
        model=model,
        processor=processor,
        plain=HF_MODELS[kind].from_pretrained(folders[kind]).eval(),
        plain_processor=HF_PROCESSORS[kind].from_pretrained(folders[kind]),
    )


def prepare(processor, chats=CHATS):
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    return processor.apply_chat_template(chats, processor_kwargs={"padding": True}, **options)


def new_ids(model, inputs, seed: int = 0, **options) -> torch.Tensor:
    torch.manual_seed(seed)
    return model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]


def by_llavas_convention(pair, said, **options) -> list[int]:
    """The new ids of one chat, from `-200` and `images=`: each image's tokens closed to one placeholder."""
    pictures = [part["image"] for part in said[0]["content"] if part["type"] == "image"]
    ids = prepare(pair.processor, [said])["input_ids"]
    lengths = iter(pair.model.num_visual_tokens([picture.size for picture in pictures]))
    row, place = [], 0
    while place < ids.shape[1]:
        is_image = int(ids[0, place]) == 518
        row.append(-200 if is_image else int(ids[0, place]))
        place += next(lengths) if is_image else 1
    ids = torch.tensor([row])
    views = process_images(pictures, pair.processor.view_processor(), pair.model.config) if pictures else None
    sizes = [picture.size for picture in pictures] or None
    return pair.model.generate(ids, images=views, image_sizes=sizes, **options)[0].tolist()


@pytest.mark.parametrize("way", WAYS)
def test_generate(pair, way):
    """A batch with no image, one and two; beams and samples repeat the samples, each with its own images."""
    ours = new_ids(pair.model, prepare(pair.processor), **WAYS[way])
    if pair.compression is None:
        one_a_sample = way in ("greedy", "sampled")  # transformers repeats the images of a sample out of order
        chats = CHATS if one_a_sample else CHATS[:2]
        ours = ours if one_a_sample else new_ids(pair.model, prepare(pair.processor, chats), **WAYS[way])
        assert torch.equal(ours, new_ids(pair.plain, prepare(pair.plain_processor, chats), **WAYS[way]))
    elif way in ("greedy", "beams"):
        for row, said in zip(ours.tolist(), CHATS, strict=True):
            expected = by_llavas_convention(pair, said, **WAYS[way])
            assert [token for token in row if token] == [token for token in expected if token]  # 0 pads
    else:
        assert torch.equal(ours, new_ids(pair.model, prepare(pair.processor), **WAYS[way]))
        assert not torch.equal(ours, new_ids(pair.model, prepare(pair.processor), seed=1, **WAYS[way]))


def test_a_batch_gives_what_each_alone_gives(pair):
    together = new_ids(pair.model, prepare(pair.processor), **GREEDY).tolist()
    for row, said in zip(together, CHATS, strict=True):
        alone = new_ids(pair.model, prepare(pair.processor, [said]), **GREEDY)[0].tolist()
        assert row[: len(alone)] == alone and not any(row[len(alone) :])


@pytest.mark.slow
def test_beams_keep_each_samples_images_together(pair):
    """A batch of samples with several images under beams is what each alone is."""
    together = new_ids(pair.model, prepare(pair.processor), **WAYS["beams"]).tolist()
    for row, said in zip(together, CHATS, strict=True):
        alone = new_ids(pair.model, prepare(pair.processor, [said]), **WAYS["beams"])[0].tolist()
        assert [token for token in row if token] == [token for token in alone if token]


def test_pipeline(pair):
    """A chat, several chats, a batch of them, and text with an image apart from it."""
    ask = pipeline("image-text-to-text", model=pair.model, processor=pair.processor)
    options = {"return_full_text": False, "generate_kwargs": GREEDY}
    assert ask(text=CHATS, batch_size=1, **options) == ask(text=CHATS, **options)
    answers = [one[0]["generated_text"] for one in ask(text=CHATS, **options)]
    decoded = pair.processor.batch_decode(
        new_ids(pair.model, prepare(pair.processor), **GREEDY), skip_special_tokens=True
    )
    assert [answer.strip() for answer in answers] == [text.strip() for text in decoded]
    assert [one[0]["generated_text"] for one in ask(text=CHATS[:1], **options)] == answers[:1]
    prompt = pair.processor.apply_chat_template(CHATS[0], add_generation_prompt=True)
    assert ask(images=[image()], text=prompt, **options)[0]["generated_text"] == answers[0]
    if pair.compression is None:
        plain = pipeline("image-text-to-text", model=pair.plain, processor=pair.plain_processor)
        assert [one[0]["generated_text"] for one in plain(text=CHATS, **options)] == answers


def test_streamed(pair):
    streamer = TextIteratorStreamer(pair.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    inputs = prepare(pair.processor, CHATS[:1])
    thread = threading.Thread(target=pair.model.generate, kwargs={**inputs, **GREEDY, "streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    expected = pair.processor.decode(new_ids(pair.model, inputs, **GREEDY)[0], skip_special_tokens=True)
    assert "".join(pieces) == expected and len(pieces) > 1


def test_device_map(pair, tmp_path):
    """`auto`, and a map with parts on disk, as `auto` makes it where memory is short."""
    model_class, _ = OURS[pair.kind]
    parts = {"model.vision_tower": "disk", "model.multi_modal_projector": "cpu", "model.language_model": "disk"}
    if pair.kind == "llava_next":
        parts["model.image_newline"] = "cpu"
    inputs = prepare(pair.processor)
    expected = new_ids(pair.model, inputs, **GREEDY)
    for device_map in ("auto", {**parts, "lm_head": "cpu"}):
        options = {"device_map": device_map, "offload_folder": tmp_path, "compression": pair.compression}
        placed = model_class.from_pretrained(pair.folder, **options).eval()
        on_disk = any(parameter.is_meta for parameter in placed.parameters())
        assert on_disk is (device_map != "auto")
        assert torch.equal(new_ids(placed, inputs, **GREEDY), expected)


@pytest.mark.slow
def test_offloaded_weights(pair):
    """All weights come in only while their module runs; in either calling convention."""
    from accelerate import cpu_offload

    model_class, _ = OURS[pair.kind]
    model = model_class.from_pretrained(pair.folder, compression=pair.compression)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in model.parameters())
    inputs = prepare(pair.processor)
    for options in (GREEDY, WAYS["beams"]):
        assert torch.equal(new_ids(model, inputs, **options), new_ids(pair.model, inputs, **options))
    offloaded = SimpleNamespace(processor=pair.processor, model=model)
    assert by_llavas_convention(offloaded, CHATS[2], **GREEDY) == by_llavas_convention(pair, CHATS[2], **GREEDY)


def test_round_trip(pair, tmp_path):
    """Weights, compression, processor and generation settings, by all ways to load them."""
    model_class, processor_class = OURS[pair.kind]
    settings = pair.model.generation_config
    pair.model.generation_config = GenerationConfig(max_new_tokens=5, eos_token_id=[2, 7], do_sample=True, top_k=9)
    pair.model.save_pretrained(tmp_path)
    pair.model.generation_config = settings
    pair.processor.save_pretrained(tmp_path)
    again, processor = model_class.from_pretrained(tmp_path).eval(), processor_class.from_pretrained(tmp_path)
    assert str(again.compression or "None") == str(pair.compression) and processor.compression == again.compression
    assert (again.generation_config.eos_token_id, again.generation_config.top_k) == ([2, 7], 9)
    state = pair.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    expected = new_ids(pair.model, prepare(pair.processor), **GREEDY)
    again.generation_config = settings
    assert torch.equal(new_ids(again, prepare(processor), **GREEDY), expected)
    tokenizer, loaded, image_processor, _ = load_pretrained_model(tmp_path, device="cpu")
    loaded.generation_config = settings
    made = processor_class.for_model(loaded, tokenizer, image_processor)
    assert loaded.compression == again.compression
    assert torch.equal(new_ids(loaded, prepare(made), **GREEDY), expected)


def test_plain_transformers_reads_what_is_saved(pair, tmp_path):
    """The Auto classes give transformers' own, uncompressed, whatever was saved: nothing of theirs is changed."""
    pair.model.save_pretrained(tmp_path)
    pair.processor.save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    processor = AutoProcessor.from_pretrained(tmp_path, backend="pil")
    assert (type(model), type(processor)) == (HF_MODELS[pair.kind], HF_PROCESSORS[pair.kind])
    assert model.config.compression == pair.model.config.compression
    expected = new_ids(pair.plain, prepare(pair.plain_processor), **GREEDY)
    assert torch.equal(new_ids(model, prepare(processor), **GREEDY), expected)


def test_nothing_of_transformers_is_registered_anew():
    from transformers.models.auto import configuration_auto, modeling_auto, processing_auto

    mappings = {
        name: value
        for module in (configuration_auto, modeling_auto, processing_auto)
        for name, value in vars(module).items()
    }
    mappings = {name: value for name, value in mappings.items() if hasattr(value, "_extra_content")}
    assert {"CONFIG_MAPPING", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", "PROCESSOR_MAPPING"} <= mappings.keys()
    ours = [name for name, value in mappings.items() if "llava" in str(value._extra_content)]
    assert not ours and configuration_auto.CONFIG_MAPPING["llava"].__module__.startswith("transformers.")


def test_a_mismatch_is_an_error(pair):
    """Never other output: of another budget the model says both sides, and what to do."""
    processor = OURS[pair.kind][1].from_pretrained(pair.folder)
    processor.set_compression("visionzip:6+3")
    said = f"compression is {re.escape(pair.compression or 'none')}.*processor\\.set_compression"
    with pytest.raises(ValueError, match=said):
        pair.model.generate(**prepare(processor), **GREEDY)
    inputs = prepare(pair.processor, [CHATS[0], CHATS[0]])
    ids, pad = inputs["input_ids"], torch.full((2, 1), 0)
    first = int((ids[1] == 518).nonzero()[0])
    moved = ids.clone()
    moved[1, first] = 5  # the sum is kept: a token of the second sample goes to the first
    moved = torch.cat([pad, moved], dim=1)
    moved[0, int((moved[0] == 518).nonzero()[0]) - 1] = 518
    inputs["attention_mask"] = torch.cat([pad + 1, inputs["attention_mask"]], dim=1)
    with pytest.raises(ValueError, match="sample 0 is the first that does not fit"):
        pair.model.generate(**{**inputs, "input_ids": moved}, **GREEDY)
    said = "image tokens, but the images have" if pair.kind == "llava" else "hold 1 images, but image_sizes 3"
    with pytest.raises(ValueError, match=said):
        pair.model.generate(**{**prepare(pair.processor), "pixel_values": inputs["pixel_values"][:1]}, **GREEDY)


def test_following_the_model(pair):
    pair.model.set_compression("visionzip:6+3")
    pair.processor.set_compression(pair.model.compression)
    try:
        inputs = prepare(pair.processor)
        counts = (inputs["input_ids"] == 518).sum(dim=1).tolist()
        sizes = [picture.size for picture in (image(), image("portrait"), image("small"))]
        tokens = pair.model.num_visual_tokens(sizes)
        assert counts == [tokens[0], 0, tokens[1] + tokens[2]] and tokens[0] % 9 == 0
        assert new_ids(pair.model, inputs, **GREEDY).shape[0] == 3
    finally:
        pair.model.set_compression(pair.compression)
        pair.processor.set_compression(pair.compression)


@pytest.mark.slow
def test_adapters(pair, tmp_path):
    """peft around the model, trained a step, saved, and put back onto a fresh one in three ways."""
    from peft import LoraConfig, PeftModel, get_peft_model

    model_class, _ = OURS[pair.kind]
    fresh = lambda: model_class.from_pretrained(pair.folder, compression=pair.compression).eval()  # noqa: E731
    settings = LoraConfig(r=4, lora_alpha=32, target_modules=r".*language_model.*\.(q_proj|v_proj)", lora_dropout=0.0)
    torch.manual_seed(0)
    tuned = get_peft_model(fresh(), settings)
    inputs = prepare(pair.processor)
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # the first step leaves A as it is, for B starts at zero
        tuned(**inputs, labels=inputs["input_ids"].masked_fill(inputs["input_ids"] == 518, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    expected = new_ids(tuned, inputs, **GREEDY)
    assert not torch.equal(expected, new_ids(pair.model, inputs, **GREEDY))
    tuned.save_pretrained(tmp_path / "adapter")
    wrapped = PeftModel.from_pretrained(fresh(), tmp_path / "adapter")
    assert torch.equal(new_ids(wrapped, inputs, **GREEDY), expected)
    loaded = fresh()
    loaded.load_adapter(tmp_path / "adapter")
    assert torch.equal(new_ids(loaded, inputs, **GREEDY), expected)
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "adapter_config.json").is_file()
    from_ours = fresh()
    from_ours.load_adapter(tmp_path / "again")
    assert torch.equal(new_ids(from_ours, inputs, **GREEDY), expected)
    merged = load_pretrained_model(
        tmp_path / "adapter", pair.folder, device="cpu", compression=pair.compression, torch_dtype="float32"
    )[1]
    merged.generation_config = pair.model.generation_config
    torch.testing.assert_close(merged(**inputs).logits, tuned(**inputs).logits, atol=1e-4, rtol=1e-4)


def test_the_documented_snippets(tmp_path, capsys, monkeypatch):
    """Ours, a pipeline, plain transformers: each says which digit is in the southeast."""
    document = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    section = document.partition("## With transformers")[2].partition("\n## ")[0]
    snippets = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert ["pipeline(" in text for text in snippets] == [False, True, False] and "llava" not in snippets[2]
    for name in ("docs", "playground"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    for snippet in snippets:
        exec(compile(snippet, "docs/checkpoints.md", "exec"), {})
        assert capsys.readouterr().out.splitlines()[0].strip() == "9"
