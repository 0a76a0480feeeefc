"""A template of one's own: in a plug-in, in training, in the run's config, and when the run is asked."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava.conversation import (
    Conversation,
    SeparatorStyle,
    conv_templates,
    conversation_template,
    default_conv_mode,
    register_template,
)
from llava.inference import Inference
from llava.kinds import load_plugins
from llava.model.builder import load_pretrained_model
from llava.train.train import train

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "tests" / "fixtures" / "plugins" / "own_template.py"


@pytest.fixture
def mine():
    load_plugins([str(PLUGIN)])
    yield "mine"
    del conv_templates["mine"]


def run(folder: Path, version: str, model: Path = ROOT / "playground" / "tiny" / "model") -> Path:
    oracle = ROOT / "tests" / "fixtures" / "oracle"
    flags = {
        "model_name_or_path": model,
        "stage": "projector",
        "version": version,
        "output_dir": folder,
        "max_steps": 1,
    }
    flags |= {"data_path": oracle / "train_tiny.json", "image_folder": oracle / "images", "save_strategy": "no"}
    flags |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 1}
    train([word for name, value in flags.items() for word in (f"--{name}", str(value))])
    return folder


def test_the_template_of_a_run_travels_with_it(mine, tmp_path, caplog):
    folder = run(tmp_path / "run", mine)
    config = json.loads((folder / "config.json").read_text())
    assert (config["conv_mode"], config["conv_mode_plugin"]) == ("mine", "own_template.py")
    loaded = load_pretrained_model(folder, device="cpu")
    assert Inference(*loaded[:3]).conv_mode == "mine"
    for part in loaded[:3]:
        part.save_pretrained(tmp_path / "whole")
    assert Inference.load(tmp_path / "whole", device="cpu").conv_mode == "mine"
    with caplog.at_level(logging.WARNING):
        again = run(tmp_path / "again", "v1", tmp_path / "whole")  # tuned further, in the usual template
    assert "--version v1: the model's own template is mine" in caplog.text
    assert Inference.load(again, device="cpu").conv_mode == "vicuna_v1"


def test_the_usual_template_leaves_no_entry(tmp_path):
    assert "conv_mode" not in json.loads((run(tmp_path / "run", "v1") / "config.json").read_text())


def test_names_of_llava_are_not_given_away():
    with pytest.raises(ValueError, match="'vicuna_v1' is LLaVA's; choose another name"):
        register_template("vicuna_v1", Conversation("", ("", ""), (), 0, SeparatorStyle.PLAIN, "\n"))
    with pytest.raises(ValueError, match=r"no conversation template 'nobody'; there are: default, .*--plugin"):
        conversation_template("nobody")
    with pytest.raises(ValueError, match=r"it comes from the plug-in theirs\.py: give it with --plugin"):
        default_conv_mode(SimpleNamespace(conv_mode="theirs", conv_mode_plugin="theirs.py"))
    with pytest.raises(ValueError, match=r"conv_mode must be the name of a conversation template, got \['v1'\]"):
        default_conv_mode(SimpleNamespace(conv_mode=["v1"]))
