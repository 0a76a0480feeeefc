"""LLaVA-OneVision as a user meets it: asked, tuned, saved, exported; from a checkpoint of LLaVA's format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
    pipeline,
)

from llava.encoded.errors import StoreError
from llava.hub.card.make_card import make_card
from llava.hub.export import export
from llava.hub.verify import verify
from llava.inference import GenerationOptions, Inference, Question
from llava.model.auto import AutoLlavaProcessor
from llava.model.checkpoints.files import CheckpointError
from llava.model.configuration import CompressionConfig
from llava.model.image_rules import ImageRules
from llava.serve.chat import Chat
from llava.train.budgets import MostVisualTokens
from llava.train.train import train
from tests.hub.checkpoints import edit_json
from tests.model.folders import copy_recorded_onevision

FIXTURES = Path(__file__).parents[1] / "fixtures"
RECORDS = FIXTURES / "oracle_models" / "onevision"
SHORT = GenerationOptions(max_new_tokens=4)
BUDGET = "visionzip:54+10"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return copy_recorded_onevision(tmp_path_factory.mktemp("onevision"))


@pytest.fixture(scope="module")
def inference(folder) -> Inference:
    return Inference.load(folder, device="cpu", compression=BUDGET)


def picture(index: int) -> Image.Image:
    with Image.open(RECORDS / f"image_{index}.png") as image:
        return image.convert("RGB")


def test_it_is_asked_in_chatml_and_a_batch_is_its_questions(inference):
    assert inference.conv_mode == "qwen_1_5"
    small, wide = picture(1), picture(0)
    questions = [Question("What is this?", (small,)), Question("And these?", (small, wide)), Question("Hello.")]
    together = {answer.index: answer for answer in inference.ask(questions, batch_size=3, options=SHORT)}
    alone = [inference.ask_one(each.text, *each.images, options=SHORT) for each in questions]
    assert [together[index].token_ids for index in range(3)] == [answer.token_ids for answer in alone]
    # A lone image has a base view and one tile; of several each is one tile, and a newline ends it.
    assert [together[index].visual_tokens for index in range(3)] == [128, 2 * 65, 0]
    assert inference.usage.images_encoded == 0  # of the last call, without an image


def test_a_chat_with_several_images(inference):
    chat = Chat(inference, [picture(1), picture(0)])
    first = chat.say("What are these?", options=SHORT)
    assert first == inference.ask_one("What are these?", picture(1), picture(0), options=SHORT).text
    chat.say("And?", options=SHORT)
    assert len(chat.messages) == 2


def test_its_processor_writes_what_the_model_takes(inference, folder):
    processor = AutoLlavaProcessor.from_pretrained(folder, compression=BUDGET)
    assert type(processor).__name__ == "LlavaOnevisionProcessor"
    prompt = inference.prompt(Question("What is this?", (picture(1),)))
    inputs = processor(text=prompt, images=picture(1), return_tensors="pt")
    assert inputs["batch_num_images"].tolist() == [1]
    new = inference.model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tuple(new.tolist()) == inference.ask_one("What is this?", picture(1), options=SHORT).token_ids
    two = processor(text="<image><image> Which?", images=[picture(1), picture(0)], return_tensors="pt")
    assert two["pixel_values"].shape == (2, 1, 3, 384, 384) and two["batch_num_images"].tolist() == [2]
    assert int((two["input_ids"] == processor.image_token_id).sum()) == 2 * 65


def test_a_pipeline_answers_as_it_is_asked(inference, folder):
    processor = AutoLlavaProcessor.for_model(inference.model, inference.tokenizer, inference.image_processor)
    ask = pipeline("image-text-to-text", model=inference.model, processor=processor)
    question = [{"type": "image", "image": picture(1)}, {"type": "text", "text": "What is this?"}]
    options = {"max_new_tokens": 4, "return_full_text": False}
    answer = ask(text=[{"role": "user", "content": question}], **options)[0]["generated_text"]
    assert answer.strip() == inference.ask_one("What is this?", picture(1), options=SHORT).text


def test_transformers_counts_the_same_tokens(folder):
    """Its own rule, of the class that ours is made of."""
    processor = AutoLlavaProcessor.from_pretrained(folder, compression=None)
    for width, height in ((300, 250), (700, 420), (1520, 1130), (90, 1800)):
        theirs = processor._get_number_of_features(height, width, 384, 384)
        assert processor.num_visual_tokens([(width, height)]) == [theirs]


def test_export_to_transformers(inference, folder, tmp_path):
    export(folder, "hf", tmp_path / "release", progress=False)
    made = tmp_path / "release"
    plain, info = LlavaOnevisionForConditionalGeneration.from_pretrained(
        made, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert tokenizer.convert_tokens_to_ids("<image>") == plain.config.image_token_id
    assert tokenizer.convert_tokens_to_ids("<video>") == plain.config.video_token_id
    pixels = LlavaOnevisionImageProcessorPil.from_pretrained(made)([picture(1)], return_tensors="pt")
    ours = Inference.load(folder, device="cpu", compression=None)
    prompt = ours.prompt(Question("What is this?", (picture(1),)))
    ids = ours.tokenize(prompt)
    count = ours.model.num_visual_tokens([picture(1).size])[0]
    at = ids.index(-200)
    expanded = torch.tensor([[*ids[:at], *[plain.config.image_token_id] * count, *ids[at + 1 :]]])
    with torch.no_grad():
        theirs = plain(input_ids=expanded, **pixels).logits[0, :, :700]
        mine = ours.model(
            torch.tensor([ids]), images=ours.preprocess([picture(1)]), image_sizes=[picture(1).size]
        ).logits[0]
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    video = json.loads((made / "video_preprocessor_config.json").read_text())
    assert video["video_processor_type"] == "LlavaOnevisionVideoProcessor"
    with pytest.raises(CheckpointError, match="haotian-liu/LLaVA knows no such model"):
        export(folder, "llava", tmp_path / "other", progress=False)


@pytest.fixture(scope="module")
def release(folder, tmp_path_factory) -> Path:
    """The checkpoint in transformers' format, with a budget in its config."""
    place = tmp_path_factory.mktemp("release")
    shutil.copytree(folder, place / "source")
    edit_json(place / "source" / "config.json", compression=CompressionConfig.parse(BUDGET).to_dict())
    export(place / "source", "hf", place / "released", progress=False)
    return place / "released"


def test_a_release_has_a_card_and_passes_verify(release):
    file = make_card(release, sample_image=RECORDS / "image_1.png", sample_question="What is this?")
    card = file.read_text(encoding="utf-8")
    assert "for 64 visual tokens a tile instead of 729" in card
    assert "import AutoProcessor, LlavaOnevisionForConditionalGeneration" in card
    assert "The original LLaVA (haotian-liu/LLaVA) knows no such model." in card and "--to llava" not in card
    assert "Its processor makes videos too, and needs torchvision." in card
    assert "an image of more tiles has more tokens" in card
    report = verify(release)
    assert report.ok, str(report)
    checks = {check.name: check for check in report.checks}
    assert f"compression {BUDGET} switched on by itself" in checks["llava"].detail
    answered = (f"llava answers, {BUDGET}", "llava answers, all tokens", "transformers answers, all tokens")
    assert all(checks[name].ok for name in answered)


def test_a_card_of_llavas_format_names_the_code_that_reads_it(folder, tmp_path):
    made = shutil.copytree(folder, tmp_path / "model")
    edit_json(made / "config.json", compression=CompressionConfig.parse(BUDGET).to_dict())
    card = make_card(made).read_text(encoding="utf-8")
    assert "for 64 visual tokens a tile (" in card and "llava.serve.cli" not in card
    assert "these files are for the code of LLaVA-VL/LLaVA-NeXT, which takes all visual tokens." in card


@pytest.fixture(scope="module")
def interleave(folder, tmp_path_factory) -> Path:
    """`lmms-lab/llava-next-interleave-qwen-*`: the same code and tower, and images as single tiles in a row."""
    made = shutil.copytree(folder, tmp_path_factory.mktemp("interleave") / "model")
    more = {"image_aspect_ratio": "pad", "mm_patch_merge_type": "flat", "image_grid_pinpoints": None}
    edit_json(made / "config.json", **more)
    return made


def test_interleave_in_llavas_format_reads_the_layer_that_it_was_trained_on(interleave):
    """Its config names layer -2 of 7, and its file has 6: what is read is the output of the last of them."""
    prefix = "model.vision_tower.vision_tower.vision_model."
    tensors = load_file(interleave / "model.safetensors")
    own = {name.removeprefix(prefix): value.float() for name, value in tensors.items() if name.startswith(prefix)}
    sizes = json.loads((RECORDS / "siglip-so400m-patch14-384" / "config.json").read_text())
    sizes = sizes.get("vision_config", sizes) | {"num_hidden_layers": 6, "vision_use_head": False}
    theirs = SiglipVisionModel(SiglipVisionConfig(**{**sizes, "model_type": "siglip_vision_model"})).eval()
    theirs.load_state_dict(own)  # all of them, and no other
    loaded = Inference.load(interleave, device="cpu", compression=None)
    pixels = torch.stack([torch.as_tensor(each) for each in loaded.preprocess([picture(1), picture(0)])])
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(loaded.model.get_vision_tower()(pixels), expected, atol=1e-5, rtol=1e-5)
    assert (type(loaded.model).__name__, loaded.conv_mode) == ("LlavaForConditionalGeneration", "qwen_1_5")
    assert loaded.ask_one("And these?", picture(1), picture(0), options=SHORT).visual_tokens == 2 * 729


TILES = {
    "image_aspect_ratio": "anyres",
    "image_grid_pinpoints": [[384, 768], [768, 384], [768, 768]],
    "mm_patch_merge_type": "spatial_unpad",
}


@pytest.mark.parametrize(("name", "entries"), [("Llava", {}), ("LlavaNext", TILES)])
def test_a_siglip_of_single_tiles_or_anyres_becomes_a_model_of_transformers(name, entries, interleave, tmp_path):
    """Plain transformers prepares the picture itself: SigLIP crops nothing, as the classes that pad or cut do."""
    made = shutil.copytree(interleave, tmp_path / "model")
    edit_json(made / "config.json", **entries)
    export(made, "hf", tmp_path / "release", progress=False)
    plain = AutoProcessor.from_pretrained(tmp_path / "release").image_processor
    loaded = Inference.load(made, device="cpu", compression=None)
    theirs, ours = plain([picture(1)], return_tensors="pt")["pixel_values"][0], loaded.preprocess([picture(1)])[0]
    torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=0)
    make_card(tmp_path / "release", sample_image=RECORDS / "image_1.png", sample_question="What is this?")
    report = verify(tmp_path / "release")
    assert all(check.ok for check in report.checks), str(report)
    assert f"{name}ForConditionalGeneration and {name}Processor" in str(report)


def flags_for(folder: Path, place: Path, *images: str, **more) -> list[str]:
    """A step of projector tuning on one sample with these images."""
    question = "<image>\n" * len(images) + "What is this?"
    said = [{"from": "human", "value": question}, {"from": "gpt", "value": "Noise."}]
    shown = images[0] if len(images) == 1 else list(images)
    (place / "data.json").write_text(json.dumps([{"id": "1", "image": shown, "conversations": said}]))
    flags = {"model_name_or_path": folder, "stage": "projector", "compression": BUDGET, "max_steps": 1}
    flags |= {"data_path": place / "data.json", "image_folder": RECORDS, "use_cpu": True, "report_to": "none"}
    flags |= {"output_dir": place / "run", "disable_tqdm": True, "save_strategy": "no", **more}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_its_projector_is_tuned(cached, folder, tmp_path):
    more = {"feature_cache": tmp_path / "cache"} if cached else {}
    images = ("image_1.png",) if cached else ("image_1.png", "image_0.png")
    trainer = train(flags_for(folder, tmp_path, *images, **more))
    assert type(trainer.model).__name__ == "LlavaOnevisionForConditionalGeneration"
    tuned = Inference.load(tmp_path / "run", device="cpu")
    assert (tuned.conv_mode, str(tuned.model.compression)) == ("qwen_1_5", BUDGET)
    assert tuned.ask_one("What is this?", picture(1), options=SHORT).visual_tokens == 128


@pytest.mark.slow
def test_a_cache_of_features_refuses_samples_with_several_images(folder, tmp_path):
    with pytest.raises(StoreError, match="a LLaVA-OneVision gives an image beside others in one sample other tokens"):
        train(flags_for(folder, tmp_path, "image_1.png", "image_0.png", feature_cache=tmp_path / "cache"))


def test_training_counts_several_images_as_the_model_does(inference):
    """The pixels of a sample with two images, and the tokens that it is cut by."""
    sizes = [picture(1).size, picture(0).size]
    assert inference.model.num_visual_tokens(sizes, of_one_prompt=True) == [65, 65]
    most = MostVisualTokens(ImageRules.from_config(inference.model.config), (inference.model.compression, None))
    assert most(sizes) == [730, 730] and most(sizes[:1]) == [1373]
