"""A third family in a file of one's own: recognised, built, asked, saved, loaded; what cannot run it refuses it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llava.hub.export import export
from llava.hub.verify import verify
from llava.inference import Inference
from llava.kinds import load_plugins
from llava.kinds.families import FAMILIES
from llava.model.builder import load_pretrained_model
from llava.model.checkpoints.files import CheckpointError
from llava.train.train import train
from tests.model.folders import image

PLUGIN = Path(__file__).parents[1] / "fixtures" / "plugins" / "own_family.py"


@pytest.fixture(scope="module", autouse=True)
def own_family():
    load_plugins([str(PLUGIN)])


def in_llavas_format(oracle_dir: Path, folder: Path, scale: float) -> Path:
    """The LLaVA-1.5 of the recorded outputs, with the entry that makes it one of the third family."""
    shutil.copytree(oracle_dir / "tiny-llava-v1.5", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mm_feature_scale": scale}))
    return folder


def features(folder: Path) -> torch.Tensor:
    _, model, processor, _ = load_pretrained_model(folder, device="cpu", compression="visionzip:54+10")
    pixels = processor(image(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return model.encode_images(pixels)[0]


def test_its_features_are_scaled_and_it_survives_saving(oracle_dir, tmp_path):
    plain = features(oracle_dir / "tiny-llava-v1.5")
    folder = in_llavas_format(oracle_dir, tmp_path / "scaled", 0.5)
    torch.testing.assert_close(features(folder), 0.5 * plain)

    inference = Inference.load(folder, device="cpu", compression="visionzip:54+10")
    assert type(inference.model).__name__ == "ScaledLlava"
    answer = inference.ask_one("What is this?", image())
    assert answer.visual_tokens == 64
    for part in (inference.tokenizer, inference.model, inference.image_processor):
        part.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["model_type"], config["mm_feature_scale"]) == ("llava_scaled", 0.5)
    torch.testing.assert_close(features(tmp_path / "saved"), 0.5 * plain)
    again = Inference.load(tmp_path / "saved", device="cpu")
    assert again.ask_one("What is this?", image()).token_ids == answer.token_ids


def test_it_has_a_processor_of_its_own(oracle_dir, tmp_path):
    folder = in_llavas_format(oracle_dir, tmp_path / "scaled", 1.0)
    processor = FAMILIES.get("llava_scaled").processor().from_pretrained(folder)
    assert type(processor).__name__ == "ScaledProcessor"
    ids = processor(text="<image>\nWhat?", images=image(), return_tensors="pt")["input_ids"]
    assert int((ids == processor.image_token_id).sum()) == 576


def test_its_projector_is_tuned_on_scaled_features(oracle_dir, tmp_path):
    folder = in_llavas_format(oracle_dir, tmp_path / "scaled", 0.5)
    flags = {"model_name_or_path": folder, "stage": "projector", "compression": "visionzip:54+10", "max_steps": 1}
    flags |= {"data_path": oracle_dir / "train_tiny.json", "image_folder": oracle_dir / "images", "use_cpu": True}
    flags |= {"output_dir": tmp_path / "run", "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    trainer = train([word for name, value in flags.items() for word in (f"--{name}", str(value))])
    assert type(trainer.model).__name__ == "ScaledLlava"
    _, model, _, _ = load_pretrained_model(tmp_path / "run", device="cpu")
    assert (model.config.mm_feature_scale, str(model.compression)) == (0.5, "visionzip:54+10")


@pytest.mark.parametrize(("to", "message"), [("hf", "plain transformers has no class"), ("llava", "family 'scaled")])
def test_export_refuses_what_cannot_run_it(to, message, oracle_dir, tmp_path):
    folder = in_llavas_format(oracle_dir, tmp_path / "scaled", 0.5)
    with pytest.raises(CheckpointError, match=message):
        export(folder, to=to, output=tmp_path / "release")
    assert not (tmp_path / "release").exists()


def test_a_family_that_transformers_can_run_is_exported_as_its_class(oracle_dir, tmp_path, monkeypatch):
    entry = FAMILIES._entries["llava_scaled"]
    own = {"transformers_model": "LlavaForConditionalGeneration", "transformers_processor": "LlavaProcessor"}
    monkeypatch.setitem(FAMILIES._entries, "llava_scaled", replace(entry, kind=replace(entry.kind, **own)))
    export(in_llavas_format(oracle_dir, tmp_path / "scaled", 1.0), to="hf", output=tmp_path / "release")
    config = json.loads((tmp_path / "release" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("llava", ["LlavaForConditionalGeneration"])
    assert all(check.ok is not False for check in verify(tmp_path / "release").checks)
