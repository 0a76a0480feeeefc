"""A llava-hf checkpoint without compression equals transformers' own classes, in either calling convention."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration as HFLlava
from transformers import LlavaNextForConditionalGeneration as HFLlavaNext

from llava.model import LlavaForConditionalGeneration, LlavaNextForConditionalGeneration
from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from tests.model.tiny import IMAGE_TOKEN, hf_llava, hf_llava_next, random_ids, random_pixels

SIZES = [(50, 40), (30, 80), (90, 20), (200, 31), (28, 28), (13, 77)]  # (w, h)


def reload(model, folder):
    model.save_pretrained(folder)
    return instantiate(parts_of_checkpoint(folder), dtype=torch.float32).eval()


def expand(input_ids: torch.Tensor, count: int) -> torch.Tensor:
    """Opens the -200 of one prompt to `count` image tokens, as a processor does."""
    row = input_ids[0].tolist()
    at = row.index(-200)
    return torch.tensor([row[:at] + [IMAGE_TOKEN] * count + row[at + 1 :]])


def prompt(seed: int = 0) -> torch.Tensor:
    ids = random_ids(1, 9, seed=seed)
    ids[0, 3] = -200
    return ids


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_llava_equals_transformers(kind, tmp_path):
    theirs = hf_llava(kind)
    ours = reload(theirs, tmp_path)
    assert isinstance(ours, LlavaForConditionalGeneration)
    pixels = random_pixels(1, 3, 28, 28)
    expanded = expand(prompt(), 16)
    with torch.no_grad():
        expected = theirs(input_ids=expanded, pixel_values=pixels).logits
        torch.testing.assert_close(ours(input_ids=expanded, pixel_values=pixels).logits, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours(prompt(), images=pixels).logits, expected, atol=1e-5, rtol=0)
    options = {"do_sample": False, "max_new_tokens": 8}
    generated = theirs.generate(input_ids=expanded, pixel_values=pixels, **options)
    assert torch.equal(ours.generate(input_ids=expanded, pixel_values=pixels, **options), generated)
    assert torch.equal(ours.generate(prompt(), images=pixels, **options), generated[:, expanded.shape[1] :])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_llava_next_equals_transformers(size, tmp_path):
    theirs = hf_llava_next()
    ours = reload(theirs, tmp_path)
    assert isinstance(ours, LlavaNextForConditionalGeneration)
    width, height = size
    num_tokens = ours.num_visual_tokens([size])[0]
    expanded = expand(prompt(), num_tokens)
    hf_sizes = torch.tensor([[height, width]])
    from llava.model.anyres import TileLayout

    tiles = random_pixels(TileLayout.from_config(ours.config).num_tiles(size), 3, 28, 28)
    with torch.no_grad():
        expected = theirs(input_ids=expanded, pixel_values=tiles[None], image_sizes=hf_sizes).logits
        same = ours(input_ids=expanded, pixel_values=tiles[None], image_sizes=hf_sizes).logits
        by_images = ours(prompt(), images=[tiles], image_sizes=[size]).logits
    torch.testing.assert_close(same, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(by_images, expected, atol=1e-5, rtol=0)


def test_sizes_differ_in_order_between_the_conventions(tmp_path):
    """(w, h) with images=, (h, w) with pixel_values=: a portrait read as a landscape is refused, not misread."""
    ours = reload(hf_llava_next(), tmp_path)
    tiles = random_pixels(4, 3, 28, 28)  # 1 x 3
    assert ours.encode_images([tiles], [(90, 20)])[0].shape == ours.encode_images([tiles], [(90, 20)])[0].shape
    with pytest.raises(ValueError, match=r"\(w, h\)"):
        ours.encode_images([tiles], [(28, 28)])


@pytest.mark.parametrize("nested", [True, False], ids=["published names", "names in memory"])
def test_published_names_load(nested, tmp_path):
    """llava-hf's files say `language_model.model.*`, newer ones `model.language_model.*`; both are read."""
    theirs = hf_llava()
    theirs.save_pretrained(tmp_path)
    state = theirs.state_dict()
    if nested:
        from llava.model.checkpoints.names import to_file_names, tower_root, transformers_names

        state = to_file_names(state, transformers_names("vision_model."), tower_root(state))
        assert "language_model.model.embed_tokens.weight" in state
        assert "vision_tower.vision_model.embeddings.class_embedding" in state
        assert "language_model.lm_head.weight" in state
    save_file({name: value.clone() for name, value in state.items()}, tmp_path / "model.safetensors")
    ours = instantiate(parts_of_checkpoint(tmp_path), dtype=torch.float32)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize(("make", "hf_class"), [(hf_llava, HFLlava), (hf_llava_next, HFLlavaNext)])
def test_what_we_save_plain_transformers_loads(make, hf_class, tmp_path):
    theirs = make()
    ours = reload(theirs, tmp_path / "a")
    ours.set_compression("visionzip:5+2")
    ours.save_pretrained(tmp_path / "b")
    names = load_file(tmp_path / "b" / "model.safetensors").keys()
    assert "language_model.model.norm.weight" in names  # the names of the published checkpoints
    again, info = hf_class.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert again.config.architectures == [hf_class.__name__]
    assert again.config.compression == {
        "method": "visionzip",
        "dominant": 5,
        "contextual": 2,
        "merge": "reference",
        "seed": 0,
    }
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    own = type(ours).from_pretrained(tmp_path / "b")
    assert str(own.compression) == "visionzip:5+2"
    for name, value in ours.state_dict().items():
        assert torch.equal(own.state_dict()[name], value), name


def test_image_tokens_without_pixels_are_embedded_as_transformers_does(tmp_path):
    theirs = hf_llava()
    ours = reload(theirs, tmp_path)
    expanded = expand(prompt(), 4)
    with torch.no_grad():
        torch.testing.assert_close(ours(input_ids=expanded).logits, theirs(input_ids=expanded).logits)


def test_from_pretrained_reads_generation_settings_and_subfolders(tmp_path):
    hf_llava().save_pretrained(tmp_path / "sub")
    (tmp_path / "sub" / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7], "temperature": 0.2}))
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path, subfolder="sub")
    assert model.generation_config.eos_token_id == [2, 7]
    model.save_pretrained(tmp_path / "again")  # a temperature without sampling must not stop it


def test_precomputed_outputs_of_transformers_are_taken(tmp_path):
    ours = reload(hf_llava(), tmp_path)
    pixels = random_pixels(1, 3, 28, 28)
    expanded = expand(prompt(), 16)
    with torch.no_grad():
        encoded = ours.get_image_features(pixels)
        got = ours(input_ids=expanded, mm_encoder_outputs={"image": encoded}).logits
        torch.testing.assert_close(got, ours(input_ids=expanded, pixel_values=pixels).logits)


def test_compressed_generate_with_pixel_values(tmp_path):
    """transformers' convention under compression: as many image tokens as the budget leaves."""
    ours = reload(hf_llava(), tmp_path)
    ours.set_compression("visionzip:5+2")
    pixels = random_pixels(1, 3, 28, 28)
    assert ours.num_visual_tokens([(28, 28)]) == [7]
    expanded = expand(prompt(), 7)
    options = {"do_sample": False, "max_new_tokens": 6}
    full = ours.generate(input_ids=expanded, pixel_values=pixels, **options)
    assert torch.equal(full[:, : expanded.shape[1]], expanded)
    assert torch.equal(full[:, expanded.shape[1] :], ours.generate(prompt(), images=pixels, **options))
    with pytest.raises(ValueError, match=r"16 image tokens, but the images have 7"):
        ours.generate(input_ids=expand(prompt(), 16), pixel_values=pixels, **options)
