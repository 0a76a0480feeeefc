"""A vision tower without its language model, and the saliency of all its layers in one pass."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil, CLIPVisionModel, Dinov2Model, SiglipVisionModel

from llava.model.builder import load_pretrained_model
from llava.model.multimodal_encoder import saliency_of_layers
from llava.model.tower_alone import load_tower
from llava.small_files import CheckpointError
from tests.kinds.folders import CROP, SIDE, save_tower
from tests.model.meta_clean import MetaClean
from tests.model.tiny import hf_llava, hf_llava_next, random_pixels, sharpen, vision_config


def eager(kind: str, folder: Path):
    torch.manual_seed(0)
    if kind == "dinov2":
        tower = Dinov2Model.from_pretrained(save_tower("dinov2", folder))
    else:
        tower = sharpen({"clip": CLIPVisionModel, "siglip": SiglipVisionModel}[kind](vision_config(kind)))
    tower.set_attn_implementation("eager")
    return tower.eval()


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2"])
def test_saliency_of_every_layer_is_transformers_attention(kind, tmp_path):
    tower, pixels = eager(kind, tmp_path), random_pixels(3, 3, 28, 28)
    with torch.no_grad():
        maps = tower(pixels, output_attentions=True).attentions
        found = saliency_of_layers(tower, pixels, [4, 1, -2])
    for saliency, theirs in zip(found, (maps[3], maps[0], maps[2]), strict=True):
        expected = theirs.mean(dim=(1, 2)) if kind == "siglip" else theirs[:, :, 0, 1:].sum(dim=1)
        torch.testing.assert_close(saliency, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_nothing_of_it_leaves_the_device(kind, tmp_path):
    tower = eager(kind, tmp_path).to("meta")
    with MetaClean():
        found = saliency_of_layers(tower, random_pixels(2, 3, 28, 28).to("meta"), [1, 3])
    assert [saliency.shape for saliency in found] == [(2, 16)] * 2


def test_layers_that_are_not_there_are_named(tmp_path):
    tower, pixels = eager("clip", tmp_path), random_pixels(1, 3, 28, 28)
    with pytest.raises(ValueError, match=r"vision_feature_layer 5 is outside -5\.\.4"):
        saliency_of_layers(tower, pixels, [5])
    with pytest.raises(ValueError, match="layer 0 are the embeddings"):
        saliency_of_layers(tower, pixels, [0])
    with pytest.raises(ValueError, match="pixels are 14 x 14"):
        saliency_of_layers(tower, pixels[..., :14, :14], [1])


def same_weights(tower, model) -> bool:
    theirs = model.model.vision_tower.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in tower.module.state_dict().items())


def test_it_is_read_out_of_llavas_format_and_by_itself(oracle_dir):
    llava, alone = oracle_dir / "tiny-llava-v1.5", oracle_dir / "tiny-clip-vit-l14-336"
    _, model, _, _ = load_pretrained_model(llava, device="cpu")
    for path in (llava, alone):
        tower = load_tower(path)
        assert same_weights(tower, model) and tower.layer == -2 and tower.num_layers == 24
        assert tower.tile_shape.grid == (24, 24) and tower.aspect_ratio == "pad"
        assert type(tower.image_processor).__name__ == "CLIPImageProcessorPil"


@pytest.mark.parametrize("kind", ["clip", "siglip", "next"])
def test_it_is_read_out_of_transformers_format(kind, tmp_path):
    model = hf_llava_next() if kind == "next" else hf_llava(kind, vision_feature_layer=-1)
    model.save_pretrained(tmp_path)
    CLIPImageProcessorPil(size=SIDE, crop_size=CROP).save_pretrained(tmp_path)
    tower = load_tower(tmp_path, dtype=torch.float32)
    assert same_weights(tower, model) and tower.layer == (-2 if kind == "next" else -1)
    assert tower.tile_shape.saliency_has_cls == (kind != "siglip") and not tower.module.training
    assert tower.aspect_ratio == ("anyres" if kind == "next" else None)


def test_the_tower_of_a_whole_clip_is_taken(oracle_dir, tmp_path):
    """openai's repositories hold text and vision together."""
    whole = Path(shutil.copytree(oracle_dir / "tiny-clip-vit-l14-336", tmp_path / "clip"))
    vision = json.loads((whole / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": vision, "text_config": {}}))
    state = load_file(whole / "model.safetensors")
    state.update({"text_model.final_layer_norm.bias": torch.zeros(4), "logit_scale": torch.zeros(())})
    save_file(state, whole / "model.safetensors")
    _, model, _, _ = load_pretrained_model(oracle_dir / "tiny-llava-v1.5", device="cpu")
    assert same_weights(load_tower(whole), model)


def test_damage_is_named(oracle_dir, tmp_path):
    folder = Path(shutil.copytree(oracle_dir / "tiny-clip-vit-l14-336", tmp_path / "tower"))
    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if name.endswith("layers.3.self_attn.k_proj.weight"))
    value = state.pop(name)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"tower: the vision tower's weights lack \(1\): .*3\.self_attn\.k_proj\.weight"
    ):
        load_tower(folder)
    save_file({**state, name: value[:, :5].contiguous()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="have in another shape"):
        load_tower(folder)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match=r"not a vision tower: vision_config\.model_type 'gpt2' is not supported"):
        load_tower(folder)
    with pytest.raises(CheckpointError, match="nowhere: there is no such folder"):
        load_tower("./nowhere")
