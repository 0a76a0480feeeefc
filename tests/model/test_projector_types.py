"""Projectors of LLaVA's other types: its names in files, its layers, saved and loaded, refused in exports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llava.hub.export import export
from llava.model.builder import load_pretrained_model
from llava.model.checkpoints.files import CheckpointError
from llava.model.multimodal_projector import read_projector, save_projector
from llava.model.projector_types import other_projector
from tests.model.folders import image
from tests.model.tiny import hf_llava

PREFIX = "model.mm_projector."


def llavas_own(kind: str, channels: int, width: int) -> nn.Module:
    """As LLaVA's `build_vision_projector` puts it together: its state dict has the names of the files."""
    torch.manual_seed(3)
    if kind == "linear":
        return nn.Linear(channels, width)
    if kind == "identity":
        return nn.Identity()
    layers: list[nn.Module] = [nn.Linear(channels, width)]
    for _ in range(1, int(kind[3])):
        layers += [nn.GELU(), nn.Linear(width, width)]
    return nn.Sequential(*layers)


def checkpoint(oracle_dir: Path, folder: Path, kind: str) -> tuple[Path, nn.Module]:
    """The recorded LLaVA-1.5, whose tower is as wide as its language model, with another projector."""
    shutil.copytree(oracle_dir / "tiny-llava-v1.5", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mm_projector_type": kind}))
    projector = llavas_own(kind, config["mm_hidden_size"], config["hidden_size"])
    state = {
        name: each for name, each in load_file(folder / "model.safetensors").items() if not name.startswith(PREFIX)
    }
    state |= {PREFIX + name: each.clone() for name, each in projector.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, projector


@pytest.mark.parametrize("kind", ["linear", "mlp1x_gelu", "mlp3x_gelu", "identity"])
@torch.no_grad()
def test_features_are_those_of_llavas_layers(kind, oracle_dir, tmp_path):
    folder, expected = checkpoint(oracle_dir, tmp_path / "llava", kind)
    _, model, processor, _ = load_pretrained_model(folder, device="cpu")
    pixels = processor(image(), return_tensors="pt")["pixel_values"]
    tower = model.get_vision_tower()(pixels)
    features = model.encode_images(pixels)
    torch.testing.assert_close(features, expected(tower), atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved")
    assert torch.equal(again.encode_images(pixels), features)
    if kind != "identity":
        save_projector(model, tmp_path / "alone", base_model=folder)
        names = {name.removeprefix("model.multi_modal_projector.") for name in read_projector(tmp_path / "alone")}
        assert names == set(model.model.multi_modal_projector.state_dict())
    with pytest.raises(CheckpointError, match=f"mm_projector_type '{kind}': plain transformers has 'mlp2x_gelu' only"):
        export(folder, "hf", tmp_path / "hf", progress=False)


def test_identity_joins_parts_of_one_width_only():
    config = hf_llava().config
    config.mm_projector_type = "identity"
    with pytest.raises(ValueError, match=r"'identity': the tower has 24 channels, .*language model 32"):
        other_projector(config)
