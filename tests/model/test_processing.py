"""The processors: pixels and ids of LLaVA's recordings, of plain transformers, after saving; and wrong input."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from llava import LlavaForConditionalGeneration, LlavaNextProcessor, LlavaProcessor, load_pretrained_model
from llava.hub.export import export
from llava.images.source import UnreadableImageError
from llava.inference import GenerationOptions, Inference
from llava.kinds.families import FAMILIES
from llava.mm_utils import tokenizer_image_token
from llava.model.checkpoints.files import CheckpointError
from llava.prompts.chat_template import chat_template
from tests.model.folders import HF_PROCESSORS, IMAGES, KINDS, QUESTIONS, TINY, chat, image, save_transformers_folder
from tests.model.tiny import vision_config

OURS = {"llava": LlavaProcessor, "llava_next": LlavaNextProcessor}
RECORDED = {
    "v15_vanilla": ("tiny-llava-v1.5", LlavaProcessor, "landscape", "portrait", "square"),
    "v15_visionzip_54_10": ("tiny-llava-v1.5", LlavaProcessor, "landscape", "portrait", "square"),
    "v16_vanilla_small": ("tiny-llava-v1.6-next", LlavaNextProcessor, "small", "square"),
    "v16_visionzip_54_10_small": ("tiny-llava-v1.6-next", LlavaNextProcessor, "small", "square"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {kind: save_transformers_folder(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def tiny() -> LlavaProcessor:
    return LlavaProcessor.from_pretrained(TINY)


@pytest.mark.parametrize("case", RECORDED)
def test_ids_pixels_and_answers_equal_the_recorded_ones(case, oracle_dir):
    """From a chat to the reference's ids, pixels and answer, by transformers' convention alone."""
    name, kind, *names = RECORDED[case]
    recorded = np.load(IMAGES.parent / f"{case}.npz")
    ids = recorded["input_ids"].tolist()
    before, after = ids[: ids.index(-200)], ids[ids.index(-200) + 1 :]
    compression = "visionzip:54+10" if "visionzip" in case else None
    tokenizer, model, _, _ = load_pretrained_model(oracle_dir / name, device="cpu", compression=compression)
    processor = kind.for_model(model, tokenizer)
    assert tokenizer.padding_side == "right" and processor.tokenizer is not tokenizer  # the user's is left as it is
    for index, picture in enumerate(map(image, names)):
        said = chat("What is shown in this picture?", picture)
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
        inputs = processor.apply_chat_template(said, chat_template=chat_template("llava_v1"), **options)
        visual = int(recorded[f"n_tokens_{index}"]) - len(before) - len(after)
        assert inputs.input_ids[0].tolist() == before + [model.config.image_token_id] * visual + after
        if f"pixels_{index}" in recorded:
            expected = torch.from_numpy(recorded[f"pixels_{index}"])
            torch.testing.assert_close(inputs.pixel_values.reshape(expected.shape), expected, atol=1e-6, rtol=0)
        generated = model.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs.input_ids.shape[1] :]
        assert generated.tolist() == recorded[f"generated_{index}"].reshape(-1)[1:].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_plain_transformers_prepares_the_same(kind, folders):
    """Uncompressed: the ids, masks and pixels of transformers' own processor of the same folder."""
    ours, theirs = (
        OURS[kind].from_pretrained(folders[kind]),
        AutoProcessor.from_pretrained(folders[kind], backend="pil"),
    )
    assert type(theirs) is HF_PROCESSORS[kind]
    chats = [chat(QUESTIONS[0], image()), chat(QUESTIONS[1]), chat(QUESTIONS[2], image("portrait"), image("small"))]
    assert ours.apply_chat_template(chats) == theirs.apply_chat_template(chats)
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "processor_kwargs": {"padding": True}}
    mine, plain = (processor.apply_chat_template(chats, **options) for processor in (ours, theirs))
    assert mine.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(mine[name], value, atol=1e-6, rtol=0)
    one = {"text": "USER: <image>\nhi", "images": image(), "return_tensors": "pt"}
    assert torch.equal(ours(**one).input_ids, theirs(**one).input_ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_photo_is_turned_as_in_plain_transformers(kind, orientation, folders, tmp_path):
    """By path, as an answer sees it too; a picture that is there already is left as it is, there and here."""
    path, exif = tmp_path / "photo.jpg", Image.Exif()
    exif[0x0112] = orientation
    image("landscape").crop((0, 0, 60, 30)).save(path, exif=exif, quality=95)
    ours = OURS[kind].from_pretrained(folders[kind])
    theirs = AutoProcessor.from_pretrained(folders[kind], backend="pil")
    with Image.open(path) as opened:
        opened.load()
        for given in (str(path), opened):
            prompt = {"text": "USER: <image>\nhi", "images": given, "return_tensors": "pt"}
            mine, plain = ours(**prompt), theirs(**prompt)
            for name, value in plain.items():
                torch.testing.assert_close(mine[name], value, atol=1e-6, rtol=0)
    inference = Inference.load(folders[kind], device="cpu", conv_mode="v1")
    [seen] = inference.open([path])
    assert seen.size == ((30, 60) if orientation == 6 else (60, 30))
    pixels = inference.preprocess([seen])
    torch.testing.assert_close(pixels, theirs(**prompt | {"images": str(path)})["pixel_values"], atol=1e-6, rtol=0)
    answer = inference.ask_one("hi", path, options=GenerationOptions(max_new_tokens=1))
    assert answer.visual_tokens == sum(inference.model.num_visual_tokens([seen.size]))


def test_guesses_from_the_prompt_say_what_they_need(tiny):
    """They repeat the image's tokens, and there are no more images for these."""
    tokenizer, model, _, _ = load_pretrained_model(str(TINY), device="cpu")
    options = {"do_sample": False, "max_new_tokens": 5, "prompt_lookup_num_tokens": 3}
    inputs = tiny(text="USER: <image>\nhi ASSISTANT:", images=image(), return_tensors="pt")
    with pytest.raises(ValueError, match=r"pass images= .* as generate with prompt_lookup_num_tokens needs it"):
        model.generate(**inputs, **options)
    ids = tokenizer_image_token("USER: <image>\nhi ASSISTANT:", tokenizer, return_tensors="pt")[None]
    pixels = tiny(images=image(), return_tensors="pt").pixel_values
    del options["prompt_lookup_num_tokens"]
    plain = model.generate(ids, images=pixels, image_sizes=[image().size], **options)
    assert torch.equal(model.generate(ids, images=pixels, prompt_lookup_num_tokens=3, **options), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_both_load(kind, folders, tmp_path):
    ours = OURS[kind].from_pretrained(folders[kind])
    ours.set_compression("visionzip:5+2")
    ours.save_pretrained(tmp_path)
    prompt = {"text": "USER: <image>\nhi </s>", "images": image(), "return_tensors": "pt"}
    again = OURS[kind].from_pretrained(tmp_path)
    assert str(again.compression) == "visionzip:5+2" and again.image_rules == ours.image_rules
    assert again.chat_template == ours.chat_template and again.tokenizer.padding_side == "left"
    for name, value in ours(**prompt).items():
        assert torch.equal(again(**prompt)[name], value)
    plain = AutoProcessor.from_pretrained(tmp_path, backend="pil")
    assert type(plain) is HF_PROCESSORS[kind]
    ours.set_compression(None)
    for name, value in ours(**prompt).items():
        torch.testing.assert_close(plain(**prompt)[name], value, atol=1e-6, rtol=0)


def test_a_llava_checkpoints_processor_and_its_pads_in_plain_transformers(oracle_dir, tmp_path):
    """LLaVA's format: tower's image processor, LLaVA's tokens; saved, transformers pads to LLaVA's pixels."""
    ours = LlavaProcessor.from_pretrained(oracle_dir / "tiny-llava-v1.5")
    text = "A chat. USER: <image>\nWhat is <image> this? ASSISTANT:"
    inputs = ours(text=text, images=[image(), image("portrait")], return_tensors="pt")
    expected = tokenizer_image_token(text, ours.tokenizer, 700)
    assert [token for token in inputs.input_ids[0].tolist() if token != 700] == [t for t in expected if t != 700]
    recorded = np.load(IMAGES.parent / "v15_vanilla.npz")
    for pixels, index in zip(inputs.pixel_values, (0, 1), strict=True):
        torch.testing.assert_close(pixels, torch.from_numpy(recorded[f"pixels_{index}"][0]), atol=1e-6, rtol=0)
    ours.save_pretrained(tmp_path)
    again = LlavaProcessor.from_pretrained(tmp_path)
    assert torch.equal(again(text=text, images=[image(), image()], return_tensors="pt").input_ids, inputs.input_ids)
    plain = AutoProcessor.from_pretrained(tmp_path, backend="pil").image_processor(image(), return_tensors="pt")
    torch.testing.assert_close(plain.pixel_values[0], inputs.pixel_values[0], atol=1e-6, rtol=0)


def test_penalties_need_a_row_for_the_image(oracle_dir):
    """LLaVA's vocabulary has none, and looking for one would be an index error, on a GPU an assertion."""
    tokenizer, model, _, _ = load_pretrained_model(oracle_dir / "tiny-llava-v1.5", device="cpu")
    inputs = LlavaProcessor.for_model(model, tokenizer)(text="<image> hi", images=image(), return_tensors="pt")
    for penalty in ({"repetition_penalty": 1.2}, {"no_repeat_ngram_size": 3}):
        with pytest.raises(ValueError, match=r"no row for the image token 700.*--to hf"):
            model.generate(**inputs, max_new_tokens=2, **penalty)
        ids = torch.tensor([tokenizer_image_token("<image> hi", tokenizer)])
        assert model.generate(ids, images=inputs.pixel_values, max_new_tokens=2, **penalty).shape == (1, 2)


def test_a_tuned_part_says_where_its_processor_is(oracle_dir, tmp_path):
    from llava.model.multimodal_projector import save_projector

    tokenizer, model, _, _ = load_pretrained_model(
        oracle_dir / "tiny-llava-v1.5", device="cpu", compression="visionzip:54+10"
    )
    save_projector(model, tmp_path / "tuned", base_model=oracle_dir / "tiny-llava-v1.5")
    with pytest.raises(CheckpointError, match=r"tuned.*for_model\(model\)"):
        LlavaProcessor.from_pretrained(tmp_path / "tuned")
    tokenizer, tuned, _, _ = load_pretrained_model(tmp_path / "tuned", device="cpu")
    assert str(LlavaProcessor.for_model(tuned, tokenizer).compression) == "visionzip:54+10"


def test_siglips_pixels(tmp_path):
    """A tower that crops nothing: LLaVA-NeXT's image processor asks for a crop size all the same."""
    from transformers import SiglipImageProcessorPil

    from llava.images.plain_processor import standalone_image_processor, view_processor
    from llava.images.processing import process_anyres_image

    tower = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    grids = [(28, 56), (56, 28), (56, 56)]
    whole = standalone_image_processor(tower, "anyres", grids, FAMILIES.get("llava_next"))
    expected = process_anyres_image(image(), tower, grids)
    assert torch.equal(process_anyres_image(image(), view_processor(whole), grids), expected)
    torch.testing.assert_close(whole(image(), return_tensors="pt").pixel_values[0], expected, atol=1e-6, rtol=0)
    assert vision_config("siglip").image_size == 28


def test_the_models_config_beside_a_processor_decides(folders, tmp_path):
    folder = Path(shutil.copytree(folders["llava"], tmp_path / "model"))
    processor = LlavaProcessor.from_pretrained(folder)
    processor.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "compression": {"dominant": 5, "contextual": 2}}))
    assert str(LlavaProcessor.from_pretrained(folder).compression) == "visionzip:5+2"


def test_every_way_to_give_an_image(tiny, tmp_path):
    image().save(tmp_path / "a.png")
    buffer = io.BytesIO()
    image().save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    forms = [image(), tmp_path / "a.png", str(tmp_path / "a.png"), encoded, f"data:image/png;base64,{encoded}"]
    forms += [np.asarray(image()), buffer.getvalue()]
    expected = tiny(images=[image()], return_tensors="pt").pixel_values
    for form in forms:
        assert torch.equal(tiny(images=form, return_tensors="pt").pixel_values, expected)
    assert tiny(images=[[image()], None, [image()]], return_tensors="pt").pixel_values.shape[0] == 2


def test_options_of_the_tokenizer(tiny):
    """LLaVA's rule tokenises by itself, so its options are tested; `padding` is on the left unless asked otherwise."""
    texts, pictures = ["USER: hi", "USER: <image>\nhow many digits are there?"], [image()]
    tiny.set_compression("visionzip:5+2")
    left = tiny(text=texts, images=pictures, padding=True, return_tensors="pt")
    right = tiny(text=texts, images=pictures, padding=True, padding_side="right", return_tensors="pt")
    assert left.attention_mask[0, 0] == 0 and right.attention_mask[0, -1] == 0
    assert torch.equal(left.input_ids[0][left.attention_mask[0] == 1], right.input_ids[0][right.attention_mask[0] == 1])
    assert int((left.input_ids == tiny.image_token_id).sum()) == 7
    assert tiny(text=texts[0], add_special_tokens=False).input_ids[0] == tiny(text=texts[0]).input_ids[0][1:]
    wide = {"padding": "max_length", "max_length": 61, "pad_to_multiple_of": 8}
    assert tiny(text=texts, images=pictures, return_tensors="pt", text_kwargs=wide).input_ids.shape == (2, 64)
    tiny.set_compression(None)


WRONG = {
    "fewer images": ({"text": "<image> <image>", "images": ["a"]}, r"2 <image> \(per text: \[2\]\), but 1 images"),
    "more images": ({"text": "hi", "images": ["a"]}, "0 <image> .*apply_chat_template"),
    "no images": ({"text": ["hi", "<image>"]}, r"\[0, 1\]\), but 0 images"),
    "the wrong sample": ({"text": ["<image>", "hi"], "images": [[], ["a"]]}, "text 0 holds 1 <image>, but 0 images"),
    "lists": ({"text": ["<image>", "hi"], "images": [["a"]]}, "1 lists, one for each text, but there are 2 texts"),
    "no prompt": ({"text": []}, "text is an empty list"),
    "nothing": ({}, "give text, images, or both"),
    "video": ({"text": "hi", "videos": ["a"]}, "no videos"),
    "no text": ({"text": ["a", 3]}, "str or a list of str"),
    "floats": ({"images": np.zeros((4, 4, 3))}, r"ndarray of float64, shape \(4, 4, 3\); give a PIL image"),
    "image options": ({"text": "hi", "images_kwargs": {"do_resize": False}}, "do_resize.*prepared as the model"),
    "unknown option": ({"text": "hi", "do_resize": False}, "do_resize"),
    "unsupported option": ({"text": "hi", "return_offsets_mapping": True}, "return_offsets_mapping.*not supported"),
    "no padding": ({"text": ["hi", "hi hi hi"], "return_tensors": "pt"}, "padding=True"),
    "truncation": (
        {"text": "<image>", "images": [Image.new("RGB", (8, 8))], "truncation": True, "max_length": 9},
        "of 196 image tokens 8 would be left by truncation to max_length=9",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_named(case, tiny):
    arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def test_an_unreadable_image_is_named(tiny, tmp_path):
    with pytest.raises(UnreadableImageError, match=r"missing\.png"):
        tiny(text="<image>", images=[str(tmp_path / "missing.png")])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"method": "visionzip", "dominant": 500}, "500"),
        ({"method": "magic", "dominant": 5}, "magic"),
        ({"dominants": 5}, "dominants"),
        ({"dominant": "5"}, "must be an int"),
        ([5], "list"),
        ("visionzip", "METHOD:DOMINANT"),
    ],
)
def test_a_corrupt_compression_is_named(value, message, tmp_path):
    """By the processor, by the model and by `load_pretrained_model` alike, and loading may replace it."""
    from llava import LlavaForConditionalGeneration

    folder = Path(shutil.copytree(TINY, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "compression": value}))
    for load in (LlavaProcessor.from_pretrained, LlavaForConditionalGeneration.from_pretrained, load_pretrained_model):
        with pytest.raises(CheckpointError, match=f"(?s){folder}.*config.json.*{message}"):
            load(folder)
    assert LlavaForConditionalGeneration.from_pretrained(folder, compression=None).compression is None


def test_the_other_kind_and_foreign_folders_are_refused(folders, tmp_path, tiny):
    with pytest.raises(CheckpointError, match="llava_next, which takes a LlavaNextProcessor, not a LlavaProcessor"):
        LlavaProcessor.from_pretrained(folders["llava_next"])
    HF_PROCESSORS["llava"].from_pretrained(folders["llava"]).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no image_rules"):
        LlavaProcessor.from_pretrained(tmp_path)
    tiny.save_pretrained(tmp_path)
    entries = json.loads((tmp_path / "processor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(json.dumps({**entries, "image_rules": {"layout": {}}}))
    with pytest.raises(CheckpointError, match=r"processor_config\.json: image_rules"):
        LlavaProcessor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"visionzip.*300|300"):
        tiny.set_compression("visionzip:300")
    with pytest.raises(ValueError, match="from_pretrained"):
        LlavaProcessor(tiny.image_processor, tiny.tokenizer)


def test_what_is_saved_and_what_is_exported_make_the_same_ids(tmp_path):
    """In plain transformers, with images at every place: the text behind one begins anew, as in LLaVA's training."""
    processor = LlavaProcessor.from_pretrained(TINY)
    LlavaForConditionalGeneration.from_pretrained(TINY).save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    LlavaProcessor.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "saved")  # changes nothing
    export(TINY, "hf", tmp_path / "exported", progress=False)
    again = LlavaProcessor.from_pretrained(tmp_path / "saved")
    for text in ("USER: <image>\nWhat? ASSISTANT:", "<image> A <image>B<image>", "<image><image>what"):
        pictures = [image()] * text.count("<image>")
        ours = processor(images=pictures, text=text).input_ids
        assert again(images=pictures, text=text).input_ids == ours
        for name in ("saved", "exported"):
            plain = AutoProcessor.from_pretrained(tmp_path / name, backend="pil")
            assert plain(images=pictures, text=text).input_ids == ours, (name, text)
    with pytest.raises(ValueError, match=r"processor\.push_to_hub"):
        processor.save_pretrained(tmp_path / "pushed", push_to_hub=True)
