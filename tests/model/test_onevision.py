"""LLaVA-OneVision against transformers' own class and processor on other sizes, and what its configs may say."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch._dynamo.testing import CompileCounter
from transformers import LlavaConfig as HFLlavaConfig
from transformers import LlavaForConditionalGeneration as HFLlava
from transformers import LlavaOnevisionForConditionalGeneration as HFLlavaOnevision
from transformers import (
    LlavaOnevisionImageProcessorPil,
    Qwen2Config,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava.conversation import default_conv_mode
from llava.images.processing import process_beside_others, process_images
from llava.images.rules import parse_pinpoints
from llava.kinds.families import family_of_llava
from llava.model.anyres import TileLayout
from llava.model.builder import build_from_parts, instantiate
from llava.model.checkpoints.config_adapter import adapt_config
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.configuration import CompressionConfig
from llava.model.families.llava_onevision.model import LlavaOnevisionForConditionalGeneration
from llava.model.image_rules import ImageRules
from llava.model.multimodal_compressor.registry import CLS_NEEDS, get_compressor
from llava.model.question_reader import QuestionReader
from tests.kinds.folders import save_language_model
from tests.model.meta_clean import MetaClean
from tests.model.own_methods import OWN_METHODS
from tests.model.tiny import (
    IMAGE_TOKEN,
    PINPOINTS,
    TEXT,
    VISION,
    hf_llava_onevision,
    random_ids,
    random_pixels,
    sharpen,
    vision_config,
)

SIZES = [(50, 40), (30, 80), (90, 20), (200, 31), (28, 28), (13, 77), (56, 56)]  # (w, h)
GREEDY = {"do_sample": False, "max_new_tokens": 6}
RAW = {  # config.json of LLaVA's format, as lmms-lab/llava-onevision-qwen2-* have it, with tiny sizes
    **{name: value for name, value in TEXT.items() if name != "pad_token_id"},
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava",
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": "(1x1),...,(6x6)",
    "mm_hidden_size": 24,
    "mm_newline_position": "one_token",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_spatial_pool_mode": "bilinear",
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
}


def reloaded(theirs, folder: Path):
    theirs.save_pretrained(folder)
    return instantiate(parts_of_checkpoint(folder), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """transformers' model and ours, of the same weights; with a bound of 2 tiles most canvases shrink."""
    theirs = hf_llava_onevision(bound=2)
    return SimpleNamespace(theirs=theirs, ours=reloaded(theirs, tmp_path_factory.mktemp("onevision")))


@pytest.fixture
def ours(both):
    """A copy of ours, to be changed."""
    return copy.deepcopy(both.ours)


def prompt(*counts: int) -> torch.Tensor:
    """Ids with so many image tokens for each image, or -200 for a count of 0, text around them."""
    row = []
    for number, count in enumerate(counts):
        row += [*random_ids(3, seed=number).tolist(), *([IMAGE_TOKEN] * count or [-200])]
    return torch.tensor([[*row, 5, 6, 7]])


def tiles_of(model, size: tuple[int, int]) -> torch.Tensor:
    return random_pixels(TileLayout.from_config(model.config).num_tiles(size), 3, 28, 28, seed=size[0])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_it_equals_transformers(both, size):
    theirs, ours = both.theirs, both.ours
    assert isinstance(ours, LlavaOnevisionForConditionalGeneration)
    (count,), tiles = ours.num_visual_tokens([size]), tiles_of(ours, size)
    given = {"input_ids": prompt(count), "pixel_values": tiles[None], "image_sizes": torch.tensor([size[::-1]])}
    with torch.no_grad():
        expected = theirs(**given).logits
        torch.testing.assert_close(ours(**given).logits, expected, atol=1e-5, rtol=0)
        by_images = ours(prompt(0), images=[tiles], image_sizes=[size]).logits
    torch.testing.assert_close(by_images, expected, atol=1e-5, rtol=0)
    generated = theirs.generate(**given, **GREEDY)
    assert torch.equal(ours.generate(**given, **GREEDY), generated)


def test_several_images_of_one_prompt_have_no_tiles(both):
    theirs, ours = both.theirs, both.ours
    counts = ours.num_visual_tokens(SIZES[:2], of_one_prompt=True)
    assert counts == [17, 17] != ours.num_visual_tokens(SIZES[:2])
    pixels = random_pixels(2, 1, 3, 28, 28)
    given = {"input_ids": prompt(*counts), "pixel_values": pixels, "batch_num_images": torch.tensor([2])}
    given["image_sizes"] = torch.tensor([size[::-1] for size in SIZES[:2]])
    with torch.no_grad():
        expected = theirs(**given).logits
        torch.testing.assert_close(ours(**given).logits, expected, atol=1e-5, rtol=0)
        by_images = ours(prompt(0, 0), images=pixels, image_sizes=SIZES[:2]).logits
    torch.testing.assert_close(by_images, expected, atol=1e-5, rtol=0)
    for options in (GREEDY, {"num_beams": 2, "max_new_tokens": 4}):
        assert torch.equal(ours.generate(**given, **options), theirs.generate(**given, **options))
    with pytest.raises(ValueError, match=r"batch_num_images \[3\] add up to 3, but there are 2 images"):
        ours(**(given | {"batch_num_images": torch.tensor([3])}))


@pytest.mark.parametrize("compression", [None, "visionzip:5+2"])
def test_a_batch_is_its_images_one_by_one(both, compression):
    ours = copy.deepcopy(both.ours)
    ours.set_compression(compression)
    images = [tiles_of(ours, size) for size in SIZES]
    with torch.no_grad():
        together = ours.encode_images(images, SIZES)
        for image, size, features in zip(images, SIZES, together, strict=True):
            torch.testing.assert_close(ours.encode_images([image], [size])[0], features, atol=1e-5, rtol=0)
    assert [len(features) for features in together] == ours.num_visual_tokens(SIZES)


def test_llava_interleave_is_a_llava_with_siglip(tmp_path):
    """`llava-hf/llava-interleave-qwen-*-hf`: the last of 26 layers of a SigLIP without a head, and a Qwen."""
    torch.manual_seed(0)
    config = HFLlavaConfig(
        vision_config=vision_config("siglip", vision_use_head=False),
        text_config=Qwen2Config(**TEXT),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=16,
    )
    theirs = sharpen(HFLlava(config))
    ours = reloaded(theirs, tmp_path)
    assert ours.config.model_type == "llava" and default_conv_mode(ours.config) == "qwen_1_5"
    pixels = random_pixels(2, 3, 28, 28)  # several images of one prompt: one tile each
    given = {"input_ids": prompt(16, 16), "pixel_values": pixels}
    with torch.no_grad():
        torch.testing.assert_close(ours(**given).logits, theirs(**given).logits, atol=1e-5, rtol=0)
    assert torch.equal(ours.generate(**given, **GREEDY), theirs.generate(**given, **GREEDY))
    ours.set_compression("visionzip:5+2")
    assert [len(features) for features in ours.encode_images(pixels)] == [7, 7]


def test_another_bound_is_refused(both):
    with pytest.raises(ValueError, match="differs from the config's"):
        both.ours.model(input_ids=prompt(4), vision_aspect_ratio="anyres_max_7")


def test_what_we_save_plain_transformers_loads(both, tmp_path):
    both.ours.save_pretrained(tmp_path)
    again, info = HFLlavaOnevision.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, value in both.theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_pixels_are_those_of_transformers_own_processor():
    processor = SiglipImageProcessorPil(size={"height": 28, "width": 28}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    plain = LlavaOnevisionImageProcessorPil(
        size={"height": 28, "width": 28},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        image_grid_pinpoints=PINPOINTS,
    )
    config = hf_llava_onevision().config
    config.image_aspect_ratio = config.vision_aspect_ratio
    noise = torch.randint(0, 256, (3, 120, 200), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    whole = Image.fromarray(noise.permute(1, 2, 0).numpy())
    images = [whole.crop((0, 0, *size)) for size in ((50, 40), (30, 80), (200, 31))]
    for image in images:
        ours = process_images([image], processor, config)
        assert torch.equal(ours, plain([image], return_tensors="pt")["pixel_values"])
    together = process_beside_others(images, processor, config)
    assert torch.equal(together, plain([images], return_tensors="pt")["pixel_values"])


def test_llavas_config_becomes_transformers():
    vision = SiglipVisionConfig(**VISION)
    config = adapt_config(RAW, vision, Path("here"))
    assert (config.model_type, config.text_config.model_type) == ("llava_onevision", "qwen2")
    layers = VISION["num_hidden_layers"]
    assert (config.vision_config.num_hidden_layers, config.vision_feature_layer) == (layers - 1, -1)
    assert vision.num_hidden_layers == layers  # the given one is left as it was
    assert len(config.image_grid_pinpoints) == 36 and config.image_grid_pinpoints[1] == [56, 28]  # (h, w)
    rules = ImageRules.from_config(config)
    assert rules.layout.most_tiles == 9 and rules.layout.rule == "llava" and rules.is_tiled
    assert ImageRules.from_dict(json.loads(json.dumps(rules.to_dict()))) == rules
    pairs = [[width * 28, height * 28] for width in range(1, 7) for height in range(1, 7)]
    assert adapt_config(RAW | {"image_grid_pinpoints": pairs}, vision, Path("here")).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"mm_resampler_type": "perceiver"}, "mm_resampler_type 'perceiver' is not supported"),
        ({"image_grid_pinpoints": "(1x1),(600x1)"}, "not a list of .width, height. pairs"),
        ({"image_grid_pinpoints": None}, "image_grid_pinpoints is empty"),
        ({"image_aspect_ratio": "anyres_max_0"}, "image_grid_pinpoints"),
    ],
)
def test_configs_that_would_be_misread_are_refused(entries, message):
    with pytest.raises(ValueError, match=f"here: config.json: .*{message}"):
        adapt_config(RAW | entries, SiglipVisionConfig(**VISION), Path("here"))


def test_the_bound_alone_tells_the_family():
    assert family_of_llava(RAW).name == "LLaVA-OneVision"
    assert family_of_llava(RAW | {"image_aspect_ratio": "anyres"}).name == "LLaVA-NeXT"
    assert family_of_llava(RAW | {"image_aspect_ratio": "pad", "mm_patch_merge_type": "flat"}).name == "LLaVA-1.5"


def test_pinpoints_may_be_a_range_of_grids():
    assert parse_pinpoints("(1x1),...,(2x3)", 10) == [(10, 10), (10, 20), (10, 30), (20, 10), (20, 20), (20, 30)]
    assert parse_pinpoints("[(384, 768), (768, 384)]", 10) == [(384, 768), (768, 384)]
    with pytest.raises(ValueError, match="pairs"):
        parse_pinpoints("(1x1),...,(2x3)")


def test_nothing_leaves_the_device(both):
    """The tower's features, the shrinking canvas and the newlines, on `meta`, where any other tensor is an error."""
    model = copy.deepcopy(both.ours).to("meta")
    images = [tiles_of(model, size).to("meta") for size in SIZES]
    for compression in (None, "visionzip:5+2"):
        model.set_compression(compression)
        with MetaClean(), torch.no_grad():
            features = model.encode_images(images, SIZES)
        assert [len(image) for image in features] == model.num_visual_tokens(SIZES)


OPTIONS = {"vispruner": "7,rule=distinct", "holov": "6,crops=4"}


@pytest.mark.parametrize("method", OWN_METHODS)
def test_methods_that_need_no_cls_token_keep_their_budget_of_each_tile(method, ours):
    """An image of several tiles, in a batch and alone; the others say what they lack."""
    budget = CompressionConfig.parse(f"{method}:{OPTIONS.get(method, 6)}")
    if not get_compressor(method).needs.isdisjoint(CLS_NEEDS):
        with pytest.raises(ValueError, match=f"{method} reads the attention of a CLS token, and this tower has none"):
            ours.set_compression(budget)
        return
    ours.set_compression(budget)
    embedding = ours.get_input_embeddings()
    ours.model.question_reader = QuestionReader(lambda text, **_: SimpleNamespace(input_ids=[5, 6]), lambda: embedding)
    images = [tiles_of(ours, size) for size in SIZES[:3]]
    with torch.no_grad():
        together = ours.encode_images(images, SIZES[:3], ["What?"] * 3)
        for image, size, features in zip(images, SIZES, together, strict=False):
            alone = ours.encode_images([image], [size], ["What?"])[0]
            torch.testing.assert_close(alone, features, atol=1e-5, rtol=1e-5)
    expected = [budget.num_tokens * len(image) for image in images]
    assert [len(features) for features in together] == ours.num_visual_tokens(SIZES[:3]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("compression", [None, "visionzip:5+2"])
@torch.no_grad()
def test_tower_compressor_and_projector_are_one_graph(compression, ours):
    ours.set_compression(compression)
    images = [tiles_of(ours, size) for size in SIZES[:3]]
    expected, counter = ours.encode_images(images, SIZES[:3]), CompileCounter()
    ours.compile_vision(counter)
    compiled = ours.encode_images(images, SIZES[:3])
    assert counter.frame_count == 1  # and `fullgraph` raises at a break
    for one, other in zip(compiled, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("compression", ["fastv:40,layer=1", "visionzip:5+2,tiles=area", "uniform:8|fastv:24,layer=1"])
def test_other_ways_to_a_budget(compression, ours):
    ours.set_compression(compression)
    images = [tiles_of(ours, size) for size in SIZES[:2]]
    ids = torch.cat([prompt(0), prompt(0)])
    together = ours.generate(ids, images=images, image_sizes=SIZES[:2], **GREEDY)
    for row, image, size in zip(together, images, SIZES, strict=False):
        assert torch.equal(ours.generate(prompt(0), images=[image], image_sizes=[size], **GREEDY)[0], row)


@pytest.mark.parametrize("layers", ["all of them", "those that are used"])
def test_it_is_made_of_a_language_model_and_a_whole_siglip(layers, tmp_path):
    """Of the tower's own files the last layer and the pooling head are not used; the others are read as they are."""
    llm = save_language_model("qwen2", tmp_path / "llm")
    torch.manual_seed(1)
    whole = sharpen(SiglipVisionModel(vision_config("siglip")))
    whole.save_pretrained(tmp_path / "tower")
    SiglipImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(tmp_path / "tower")
    entries = {"image_aspect_ratio": "anyres_max_2", "image_grid_pinpoints": "(1x1),...,(2x2)"}
    if layers != "all of them":
        entries["mm_vision_select_layer"] = -1  # is not heeded, as by LLaVA-NeXT's code
    _, model, _ = build_from_parts(llm, tmp_path / "tower", mm_patch_merge_type="spatial_unpad", **entries)
    assert model.config.model_type == "llava_onevision"
    assert len(model.model.vision_tower.encoder.layers) == VISION["num_hidden_layers"] - 1
    pixels = random_pixels(2, 3, 28, 28)
    with torch.no_grad():
        expected = whole(pixels, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(model.get_vision_tower()(pixels), expected, atol=1e-5, rtol=1e-5)
