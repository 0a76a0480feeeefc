"""Mini-Gemini: what its configs may say, its larger picture and the memory of its map, its views, its methods."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, LlamaConfig

from llava.analysis.counting import count
from llava.conversation import default_conv_mode
from llava.kinds.families import family_of_llava
from llava.model.checkpoints.config_adapter import adapt_config
from llava.model.checkpoints.files import CheckpointError
from llava.model.checkpoints.refusals import refuse_other_families
from llava.model.configuration import CompressionConfig
from llava.model.families.mini_gemini.files import convnext_name, module_name
from llava.model.families.mini_gemini.mining import clip_views, pictures_at_once
from llava.model.families.mini_gemini.model import MiniGeminiConfig, MiniGeminiForConditionalGeneration
from llava.model.families.mini_gemini.operations import second_tower_flops
from llava.model.image_rules import ImageRules
from llava.model.published_models import published_model
from llava.model.question_reader import QuestionReader
from tests.model.meta_clean import MetaClean
from tests.model.own_methods import OWN_METHODS
from tests.model.tiny import IMAGE_TOKEN, TEXT, VISION, random_ids, random_pixels, sharpen

AUX = {"hidden_sizes": [4, 8, 12], "depths": [1, 2, 1]}
VIEWS = {"plain": (64, 1, False, 1), "parts": (128, 2, False, 4), "hd": (128, 2, True, 5)}
RAW = {  # as published configs have it, with tiny sizes
    **{name: value for name, value in TEXT.items() if name != "pad_token_id"},
    "architectures": ["MiniGeminiLlamaForCausalLM"],
    "model_type": "mini_gemini",
    "aux_img_fold": False,
    "aux_with_fpn": False,
    "image_aspect_ratio": "pad",
    "image_size_aux": 768,
    "mm_hidden_size": 24,
    "mm_hidden_size_aux": 2880,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "model_zoo/OpenAI/clip-vit-large-patch14-336",
    "mm_vision_tower_aux": "model_zoo/OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup",
    "optimize_vision_tower": False,
}
HD = {"image_size_aux": 1536, "image_grid": 2, "image_global": True}
GREEDY = {"do_sample": False, "max_new_tokens": 4}


def config(kind: str = "plain", **more) -> MiniGeminiConfig:
    side, grid, has_whole, _ = VIEWS[kind]
    made = MiniGeminiConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=LlamaConfig(**TEXT),
        image_token_index=IMAGE_TOKEN,
        aux_config=AUX,
        image_size_aux=side,
        image_grid=grid,
        image_global=has_whole,
        **more,
    )
    made.image_aspect_ratio = "pad"
    return made


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    found = {kind: sharpen(MiniGeminiForConditionalGeneration(config(kind))) for kind in VIEWS}
    for model in found.values():
        for name, parameter in model.model.mining.named_parameters():
            if name.endswith("layer_scale_parameter"):  # which starts near nothing
                torch.nn.init.ones_(parameter)
    return found


@pytest.fixture
def model(models, request):
    return copy.deepcopy(models[getattr(request, "param", "plain")])


def pictures(kind: str, number: int = 3) -> torch.Tensor:
    side = VIEWS[kind][0]
    return random_pixels(number, 3, side, side)


def prompt() -> torch.Tensor:
    return torch.tensor([[*random_ids(3).tolist(), -200, 5, 6, 7]])


# ---- configs ----


@pytest.mark.parametrize("model_type", ["mgm", "mini_gemini", "llava", "anything"])
def test_the_second_tower_alone_tells_the_family(model_type):
    raw = RAW | {"model_type": model_type, "architectures": [f"{model_type}LlamaForCausalLM"]}
    assert family_of_llava(raw).name == "Mini-Gemini"
    assert family_of_llava({**raw, "mm_vision_tower_aux": None}).name == "LLaVA-1.5"
    made = adapt_config(raw, CLIPVisionConfig(**VISION), Path("here"))
    assert (made.model_type, made.text_config.model_type, default_conv_mode(made)) == ("mgm", "llama", "vicuna_v1")


def test_its_config_becomes_ours_with_the_names_that_its_authors_paths_mean():
    made = adapt_config(RAW | HD, CLIPVisionConfig(image_size=336, patch_size=14), Path("here"))
    assert made.mm_vision_tower == "openai/clip-vit-large-patch14-336"
    assert made.mm_vision_tower_aux == "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"
    assert made.aux_config == {"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]}
    assert (made.image_seq_length, made.image_token_index) == (2880, TEXT["vocab_size"])
    rules = ImageRules.from_config(made)
    assert rules.num_tiles((300, 200)) == 5 and rules.num_tokens((300, 200), None) == 2880
    assert rules.num_tokens((300, 200), CompressionConfig.parse("visionzip:54+10")) == 320
    assert ImageRules.from_dict(json.loads(json.dumps(rules.to_dict()))) == rules
    assert json.loads(made.to_json_string())["aux_config"] == made.aux_config


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"architectures": ["MGMGemmaForCausalLM"], "vocab_size": 256_000}, "Gemma"),
        ({"architectures": ["MiniGeminiMixtralForCausalLM"], "num_local_experts": 8}, "Mixtral"),
        ({"architectures": None, "num_local_experts": 8}, "Mixtral"),
        ({"architectures": ["MGMMistralForCausalLM"]}, "Mistral"),
        ({"vocab_size": 64_000}, "Yi .vocab_size 64000."),
        ({"vocab_size": 128_256}, "Llama 3 .vocab_size 128256."),
        ({"vocab_size": 200_000}, "another language model .vocab_size 200000."),
    ],
)
def test_other_language_models_are_refused_by_name(entries, named):
    with pytest.raises(CheckpointError, match=f"here: config.json: this is a Mini-Gemini with {named} inside.*MGM-7B"):
        refuse_other_families(RAW | entries, Path("here"))


def test_old_ways_of_images_are_refused():
    refuse_other_families(RAW, Path("here"))
    with pytest.raises(CheckpointError, match="aux_with_fpn is true"):
        refuse_other_families(RAW | {"aux_with_fpn": True}, Path("here"))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"image_size_aux": None}, "image_size_aux is missing: .*768, or 1536"),
        ({"image_size_aux": 700}, r"image_size_aux 700 with image_grid 1: .* a multiple of 96 can"),
        ({"image_grid": 3}, r"image_size_aux 768 with image_grid 3: .* a multiple of 288 can"),
        ({"image_global": True}, "image_global is true and image_grid 1"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature 'cls_patch'"),
        ({"mm_hidden_size_aux": 80}, "mm_hidden_size_aux 80: the ConvNeXt is not the published one"),
    ],
)
def test_configs_that_would_be_misread_are_refused(entries, message):
    with pytest.raises(ValueError, match=f"here: config.json: {message}"):
        adapt_config(RAW | entries, CLIPVisionConfig(image_size=336, patch_size=14), Path("here"))


def test_a_config_of_our_format_is_checked_too():
    broken = config()
    broken.image_size_aux = 72
    with pytest.raises(ValueError, match="image_size_aux 72 with image_grid 1"):
        MiniGeminiForConditionalGeneration(broken)


@pytest.mark.parametrize(
    "sizes", [{}, {"hidden_sizes": [4, 8]}, {"depths": [1]}, {"hidden_sizes": [4, 8], "depths": [1]}]
)
def test_sizes_that_make_no_second_tower_are_refused(sizes):
    broken = config()
    broken.aux_config = {"hidden_sizes": [], **sizes}
    with pytest.raises(ValueError, match=r"aux_config has the hidden_sizes .* and the depths .*one of each"):
        MiniGeminiForConditionalGeneration(broken)


def test_names_of_tensors():
    assert module_name("model.vlm_uni_aux_projector.1.weight") == "model.mining.key.1.weight"
    stage = "model.vision_tower_aux.vision_stages.2."
    assert module_name(f"{stage}downsample.1.bias") == "model.mining.tower.encoder.stages.2.downsampling_layer.1.bias"
    assert module_name(f"{stage}blocks.3.gamma") == (
        "model.mining.tower.encoder.stages.2.layers.3.layer_scale_parameter"
    )
    assert module_name("model.mm_projector.0.weight") is None and convnext_name("head.norm.weight") is None


# ---- the larger picture, and its views ----


@pytest.mark.parametrize("kind", VIEWS)
def test_a_batch_is_its_images_one_by_one(kind, models):
    model, size = models[kind], (50, 40)
    images, views = pictures(kind), VIEWS[kind][3]
    for compression in (None, "visionzip:5+2", "visionzip:5+2,keep_cls=true", "visionzip:5+2,tiles=area"):
        model.set_compression(compression)
        with torch.no_grad():
            together = model.encode_each(images, [size] * len(images))
            for image, features in zip(images, together, strict=True):
                for alone in (image[None], [image]):
                    torch.testing.assert_close(model.encode_each(alone, [size])[0], features, atol=1e-5, rtol=1e-5)
        assert [len(each) for each in together] == model.num_visual_tokens([size] * 3)
        assert len(together[0]) == views * (16 if compression is None else 7)
    model.set_compression(None)


def test_views_are_the_whole_and_its_parts_row_by_row():
    pixels = pictures("hd", 2)
    whole, *parts = clip_views(pixels[:1], 28, 2, has_whole=True)
    smaller = torch.nn.functional.interpolate(pixels[:1], (56, 56), mode="bilinear")
    assert torch.equal(torch.cat([torch.cat(parts[:2], dim=2), torch.cat(parts[2:], dim=2)], dim=1), smaller[0])
    assert torch.equal(whole, torch.nn.functional.interpolate(smaller, (28, 28), mode="bilinear")[0])
    both = clip_views(pixels, 28, 2, has_whole=True)
    assert torch.equal(both[:5], torch.stack([whole, *parts])) and both.shape == (10, 3, 28, 28)


def test_a_part_of_the_picture_changes_what_its_own_patches_mine(models):
    """Each patch sees its own region of the map alone."""
    mining = models["plain"].model.mining
    aux_map, patches = torch.randn(1, 24, 16, 16), torch.randn(1, 16, 24)
    changed = aux_map.clone()
    changed[:, :, 4:8, 8:12] = torch.randn(1, 24, 4, 4)  # the region of patch 1 * 4 + 2
    with torch.no_grad():
        differs = (mining._attend(patches, changed) - mining._attend(patches, aux_map)).abs().amax(dim=(0, 2)) > 1e-6
    assert differs.nonzero().flatten().tolist() == [6]


def test_pictures_of_another_size_are_refused(models):
    with pytest.raises(ValueError, match="pixels are 28 x 28, and the model's image_size_aux is 64"):
        models["plain"].encode_images(random_pixels(1, 3, 28, 28))


def test_area_gives_tiles_tokens_by_what_they_show(model):
    del model
    rules = ImageRules.from_config(config("hd"))
    assert rules.layout.shown_patches(5, (60, 60)) == [16] * 5
    assert rules.layout.shown_patches(5, (60, 15)) == [8, 4, 4, 4, 4]
    assert ImageRules.from_config(config("parts")).layout.shown_patches(4, (60, 30)) == [8, 8, 8, 8]


def test_the_mining_is_whole_on_one_device(models):
    """However layers are dealt out to devices: they are dealt by these names."""
    assert {"PatchInfoMining", "LlamaDecoderLayer"} <= set(models["plain"]._no_split_modules)


# ---- the map's memory ----


@pytest.mark.parametrize("name", ["mgm-7b", "mgm-7b-hd"])
def test_maps_are_held_of_a_few_pictures_at_a_time(name):
    """At the real sizes, on torch's meta device: more pictures than fit need their own rows, and no map more."""
    real = published_model(name).config()
    real.vision_config.num_hidden_layers, real.text_config.num_hidden_layers = 2, 1
    real.aux_config = real.aux_config | {"depths": [1, 1, 1, 1]}
    with torch.device("meta"):
        model = MiniGeminiForConditionalGeneration._from_config(real, dtype=torch.float16).eval()
    model.set_compression("visionzip:54+10")
    side = real.image_size_aux
    map_bytes = 2880 * (side // 4) ** 2 * 2
    assert map_bytes == (849_346_560 if "hd" in name else 212_336_640)
    seen = []
    model.model.mining.tower.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))

    def peak(number: int) -> int:
        pixels = torch.zeros(number, 3, side, side, dtype=torch.float16, device="meta")
        with torch.no_grad():
            return count(lambda: model.encode_images(pixels)).peak_bytes

    few = pictures_at_once(side)
    alone, many = peak(few), peak(4 * few)
    assert seen == [few] * 5
    rows = 4 * few * model.model.picture.tiles * 577 * 1024 * 2  # CLIP's output, of all of them
    assert many - alone < 12 * rows < 4 * few * map_bytes


@pytest.mark.parametrize("kind", VIEWS)
def test_nothing_leaves_the_device(kind, models):
    model = copy.deepcopy(models[kind]).to("meta")
    images = pictures(kind).to("meta")
    for compression in (None, "visionzip:5+2", "visionzip:5+2,keep_cls=true", "divprune:6"):
        model.set_compression(compression)
        with MetaClean(), torch.no_grad():
            features = model.encode_each(images, [(50, 40)] * 3)
        assert [len(image) for image in features] == model.num_visual_tokens([(50, 40)] * 3)


# ---- methods ----

OPTIONS = {"vispruner": "7,rule=distinct", "holov": "6,crops=4", "prumerge_plus": "6,rule=distinct"}


@pytest.mark.parametrize("model", ["plain", "hd"], indirect=True)
@pytest.mark.parametrize("method", OWN_METHODS)
def test_every_method_keeps_its_budget_of_each_view(method, model):
    kind = "hd" if model.model.picture.tiles > 1 else "plain"
    budget = CompressionConfig.parse(f"{method}:{OPTIONS.get(method, 6)}")
    if method == "downsample":
        with pytest.raises(ValueError, match="stands at pixels, and the model offers tower, projected"):
            model.set_compression(budget)
        return
    model.set_compression(budget)
    embedding = model.get_input_embeddings()
    model.model.question_reader = QuestionReader(lambda text, **_: SimpleNamespace(input_ids=[5, 6]), lambda: embedding)
    images, sizes = pictures(kind), [(50, 40)] * 3
    with torch.no_grad():
        together = model.encode_each(images, sizes, ["What?"] * 3)
        for image, features in zip(images, together, strict=True):
            alone = model.encode_each([image], sizes[:1], ["What?"])[0]
            if method != "cdpruner":  # whose first choice of patches without CLIP's text is a tie of them all
                torch.testing.assert_close(alone, features, atol=1e-5, rtol=1e-5)
    expected = budget.num_tokens * VIEWS[kind][3]
    assert [len(features) for features in together] == model.num_visual_tokens(sizes) == [expected] * 3


OTHER_WAYS = {
    "plain": ("fastv:10,layer=1", "uniform:8|fastv:6,layer=1", "scope:6,adaptive=cover,threshold=0.8"),
    "hd": ("fastv:50,layer=1", "uniform:8|fastv:30,layer=1", "scope:6,tiles=gain"),
}


@pytest.mark.parametrize(
    ("model", "compression"),
    [(kind, way) for kind, ways in OTHER_WAYS.items() for way in ways],
    indirect=["model"],
)
def test_other_ways_to_a_budget(compression, model):
    model.set_compression(compression)
    kind = "hd" if model.model.picture.tiles > 1 else "plain"
    images = list(pictures(kind, 2))
    together = model.generate(prompt().expand(2, -1), images=images, image_sizes=[(50, 40)] * 2, **GREEDY)
    for row, image in zip(together, images, strict=True):
        alone = model.generate(prompt(), images=[image], image_sizes=[(50, 40)], **GREEDY)[0]
        assert alone.tolist() == row[: len(alone)].tolist()


def test_restore_is_for_one_view(models):
    copy.deepcopy(models["plain"]).set_compression("divprune:6,positions=restore")
    with pytest.raises(ValueError, match="this model's images have several"):
        models["hd"].set_compression("divprune:6,positions=restore")


def test_the_cls_token_stays_out_unless_it_is_asked_for(model):
    pixels = pictures("plain", 1)
    with torch.no_grad():
        clip = model.model.read_features(pixels)
        model.set_compression("visionzip:5+2")
        without = model.compress_images(pixels)
        model.set_compression("visionzip:5+2,keep_cls=true")
        kept = model.compress_images(pixels)
    assert without.positions.min() >= 0 and kept.positions[0, 0] == -1
    assert torch.equal(kept.tokens[0, 0], clip.content[0, 0])  # as CLIP gave it: it has no part of the picture
    for budget in (without, kept):
        assert budget.tokens.shape[1] == 7
    with pytest.raises(ValueError, match="keep_cls=true asks for a CLS token, and divprune keeps none"):
        model.set_compression("divprune:6,keep_cls=true")


# ---- graphs and operations ----


@pytest.mark.slow
@pytest.mark.parametrize("model", ["plain", "hd"], indirect=True)
@pytest.mark.parametrize("compression", [None, "visionzip:5+2", "visionzip:5+2,keep_cls=true"])
@torch.no_grad()
def test_towers_mining_compressor_and_projector_are_one_graph(compression, model):
    model.set_compression(compression)
    images = pictures("hd" if model.model.picture.tiles > 1 else "plain")
    expected, counter = model.encode_each(images), CompileCounter()
    model.compile_vision(counter)
    compiled = model.encode_each(images)
    assert counter.frame_count == 1  # and `fullgraph` raises at a break
    for one, other in zip(compiled, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", VIEWS)
def test_operations_are_those_that_torch_counts(kind, models):
    model = copy.deepcopy(models[kind]).to("meta")
    pixels = pictures(kind, 1).to("meta")
    patches = torch.zeros(VIEWS[kind][3], 16, VISION["hidden_size"], device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.model.mining(patches, pixels, model.config.image_grid)
    assert second_tower_flops(model.config) == counter.get_total_flops()


def test_what_is_saved_is_loaded_again(model, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    model.set_compression("visionzip:5+2,keep_cls=true")
    model.save_pretrained(tmp_path)
    again = MiniGeminiForConditionalGeneration.from_pretrained(tmp_path)
    assert str(again.compression) == "visionzip:5+2,keep_cls=true"
    assert again.config.aux_config == AUX and again.config.image_size_aux == 64
    own, loaded = model.state_dict(), again.state_dict()
    assert own.keys() == loaded.keys() and all(torch.equal(own[name], loaded[name]) for name in own)
    pixels = pictures("plain", 1)
    with torch.no_grad():
        assert torch.equal(again(prompt(), images=pixels).logits, model(prompt(), images=pixels).logits)
