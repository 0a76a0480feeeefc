"""Down-sampling: towers see a smaller picture as transformers lets them; the trained tiny model answers on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers import CLIPVisionModel, Dinov2Config, Dinov2Model, SiglipVisionModel

from llava.inference import GenerationOptions, Inference, Question
from llava.model.multimodal_encoder import extract_features
from tests.model.tiny import VISION, random_pixels, sharpen, vision_config

TINY = Path(__file__).resolve().parents[3] / "playground" / "tiny"
TOWERS = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel, "dinov2": Dinov2Model}


def tower(kind: str, attention: str = "sdpa"):
    torch.manual_seed(0)
    config = Dinov2Config(**VISION) if kind == "dinov2" else vision_config(kind)
    config._attn_implementation = attention
    return sharpen(TOWERS[kind](config))


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("grid", [(2, 3), (4, 4), (1, 2)])
@pytest.mark.parametrize("layer", [-1, -2])
@torch.no_grad()
def test_a_tower_sees_the_shrunk_picture_as_in_transformers(kind, grid, layer):
    pixels, model = random_pixels(3, 3, 28, 28), tower(kind)
    shrunk = interpolate(pixels, [7 * count for count in grid], mode="bicubic", antialias=True)
    more = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}  # DINOv2 always does
    theirs = model(shrunk, output_hidden_states=True, **more).hidden_states[layer]
    ours = extract_features(model, pixels, layer, grid=grid)
    has_cls = kind != "siglip"
    assert theirs.shape[1] == grid[0] * grid[1] + has_cls and not ours.has_cls and ours.saliency_has_cls == has_cls
    torch.testing.assert_close(ours.content, theirs[:, int(has_cls) :], atol=1e-5, rtol=1e-5)
    assert ours.grid == grid and ours.tile_grid == (4, 4)


@torch.no_grad()
def test_all_patches_are_the_whole_picture():
    pixels, model = random_pixels(2, 3, 28, 28), tower("clip")
    whole = extract_features(model, pixels, -2)
    torch.testing.assert_close(extract_features(model, pixels, -2, grid=(4, 4)).content, whole.patches)


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("layer", [-1, -2, -3, 2])
@torch.no_grad()
def test_queries_and_keys_are_those_that_the_last_layer_makes(kind, layer):
    model, pixels, made = tower(kind), random_pixels(3, 3, 28, 28), {}
    layers = model.encoder.layer if kind == "dinov2" else model.encoder.layers
    attention = layers[-1].attention if kind == "dinov2" else layers[-1].self_attn
    handles = [
        getattr(attention, name).register_forward_hook(lambda module, given, out, name=name: made.setdefault(name, out))
        for name in ("q_proj", "k_proj")
    ]
    model(pixels)
    for handle in handles:
        handle.remove()
    queries, keys = extract_features(model, pixels, layer, frozenset({"last_layer_qk"})).last_layer_qk
    torch.testing.assert_close(queries, made["q_proj"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(keys, made["k_proj"], atol=1e-5, rtol=1e-5)


@pytest.fixture
def pictures(oracle_dir):
    return [oracle_dir / "images" / f"{name}.png" for name in ("landscape", "square")]


@pytest.mark.parametrize(
    ("checkpoint", "budget"),
    [("tiny", "downsample:49"), ("tiny", "downsample:20"), ("tiny-llava-v1.6-next", "downsample:128")],
)
def test_a_model_answers_on_shrunk_pictures_in_batches(checkpoint, budget, oracle_dir, pictures):
    folder = TINY / "model" if checkpoint == "tiny" else oracle_dir / checkpoint
    inference = Inference.load(folder, device="cpu", torch_dtype="float32", compression=budget)
    kept = int(budget.partition(":")[2])
    questions = [
        Question(text, (picture,))
        for text in ("Which digit is in the northwest?", "Is there a 3?")
        for picture in pictures
    ]
    options = GenerationOptions(max_new_tokens=4)
    together = {answer.index: list(answer.token_ids) for answer in inference.ask(questions, options=options)}
    for index, question in enumerate(questions):
        alone = next(iter(inference.ask([question], options=options)))
        assert list(alone.token_ids) == together[index] != []
    with Image.open(pictures[0]) as picture:
        tokens, pixels = inference.model.num_visual_tokens([picture.size])[0], inference.preprocess([picture.copy()])
        found = inference.model.encode_images(pixels, [picture.size])[0]
    tiles = pixels[0].shape[0] if checkpoint.endswith("next") else 1
    assert len(found) == tokens == kept * tiles
