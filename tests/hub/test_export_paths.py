"""What an export reads is never written over, and no entry of its files names a folder of this machine."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava.hub.export import export
from llava.hub.formats.hf import is_local_path
from tests.hub.checkpoints import assert_same_tensors, edit_json, llava_checkpoint, tensors_of


@pytest.fixture
def source(oracle_dir, tmp_path):
    return llava_checkpoint(oracle_dir, tmp_path / "in" / "source", "v1.5 outside")


def projector_on(base, folder):
    """A projector that names its base."""
    folder.mkdir()
    state = load_file(base / "model.safetensors")
    state = {name: value for name, value in state.items() if "mm_projector" in name}
    save_file(state, folder / "mm_projector.safetensors", metadata={"format": "pt"})
    shutil.copyfile(base / "config.json", folder / "config.json")
    edit_json(folder / "config.json", base_model_name_or_path=str(base))
    return folder


def test_base_and_tower_are_not_replaced(source, oracle_dir, tmp_path):
    tower = shutil.copytree(oracle_dir / "tiny-clip-vit-l14-336", tmp_path / "tower")
    edit_json(source / "config.json", mm_vision_tower=str(tower))
    run = projector_on(source, tmp_path / "run")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(run)}))
    for folder in (source, tower):
        (folder / "export.json").write_text(json.dumps({"files": [file.name for file in folder.iterdir()]}))
    before = {folder: (folder / "model.safetensors").read_bytes() for folder in (source, tower)}
    for what in (run, adapter):  # named by itself, and by its base
        for folder in (source, tower):
            with pytest.raises(ValueError, match="holds what is exported, or its base"):
                export(what, "hf", folder, overwrite=True, progress=False)
    assert all((folder / "model.safetensors").read_bytes() == content for folder, content in before.items())


def test_entries_inside_of_others_are_cleaned_too(source, tmp_path):
    def exported():
        export(tmp_path / "hf", "hf", tmp_path / "again", progress=False)
        return (tmp_path / "again" / "config.json").read_text()

    export(source, "hf", tmp_path / "hf", progress=False)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        config[part]["_name_or_path"] = "/data/me/model"
    config |= {"trained_on": [{"file": "/data/me/a.json", "n": 3}, "/data/me/b.json"], "note": {"where": "~/me"}}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    text = exported()
    assert "/me" not in text and json.loads(text)["trained_on"] == [{"n": 3}]
    notes = json.loads((tmp_path / "again" / "export.json").read_text())["notes"]
    assert any("trained_on.0.file named a place" in note for note in notes) and "/me" not in str(notes)


def test_a_relative_path_is_one_if_the_folder_is_there(source, oracle_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(oracle_dir / "tiny-clip-vit-l14-336", tmp_path / "checkpoints" / "clip")
    (tmp_path / "pad").mkdir()
    (tmp_path / "in" / "source" / "own" / "tower").mkdir(parents=True)
    local = ("checkpoints/clip", "/data/clip", "./clip", "~/clip", "C:\\clip")
    assert all(is_local_path(name) for name in local) and is_local_path("own/tower", source)
    assert not any(is_local_path(name) for name in ("openai/clip", "own/tower", "pad", 3, None))
    edit_json(source / "config.json", mm_vision_tower="checkpoints/clip")
    report = export(source, "llava", tmp_path / "llava-out", progress=False)
    assert any("mm_vision_tower checkpoints/clip is a place on this machine" in note for note in report.notes)
    export(source, "hf", tmp_path / "hf", progress=False)
    assert "checkpoints/clip" not in (tmp_path / "hf" / "config.json").read_text()


def test_a_newline_that_the_model_does_not_use_is_kept_or_noted(source, tmp_path):
    state = load_file(source / "model.safetensors") | {"model.image_newline": torch.arange(64.0)}
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    export(source, "llava", tmp_path / "llava-out", progress=False)
    assert_same_tensors(tensors_of(tmp_path / "llava-out"), tensors_of(source))
    report = export(source, "hf", tmp_path / "hf", progress=False)
    assert any("left out: model.image_newline" in note for note in report.notes)
    assert not any("newline" in name for name in tensors_of(tmp_path / "hf"))
