"""`--to llava`: there and back again without a changed bit, and files as haotian-liu/LLaVA wrote them."""

from __future__ import annotations

import json

import pytest
import torch

from llava.hub.export import export
from llava.model.checkpoints.files import CheckpointError
from tests.hub.checkpoints import assert_same_tensors, edit_json, llava_checkpoint, tensors_of

CLIP = "tiny-clip-vit-l14-336"
QUICK = ["v1.5 inside sharded", "next outside half"]
SLOW = ["v1.5", "v1.5 mistral half", "next", "next mistral sharded"]
KINDS = [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)]


def there_and_back(oracle_dir, tmp_path, kind, **options):
    source = llava_checkpoint(oracle_dir, tmp_path / "source", kind)
    tower = str(oracle_dir / CLIP)
    export(source, "hf", tmp_path / "hf", progress=False, **options)
    export(tmp_path / "hf", "llava", tmp_path / "llava-back", vision_tower=tower, progress=False, **options)
    return source, tmp_path / "hf", tmp_path / "llava-back"


@pytest.mark.parametrize("kind", KINDS)
def test_llava_to_hf_to_llava(kind, oracle_dir, tmp_path):
    source, _, back = there_and_back(oracle_dir, tmp_path, kind, max_shard_size="300KB" if "half" in kind else "5GB")
    assert_same_tensors(tensors_of(back), tensors_of(source))
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, back))
    before.pop("transformers_version")
    assert after == before
    for name in ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.model"):
        if name.endswith(".json"):
            assert json.loads((back / name).read_text()) == json.loads((source / name).read_text())
        else:
            assert (back / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize("kind", ["v1.5 mistral half", pytest.param("next", marks=pytest.mark.slow)])
def test_hf_to_llava_to_hf(kind, oracle_dir, tmp_path):
    """The added rows are made anew, to the same bits; a published llava-hf folder's own, drawn ones are not kept."""
    _, first, back = there_and_back(oracle_dir, tmp_path, kind)
    export(back, "hf", tmp_path / "second", progress=False)
    assert_same_tensors(tensors_of(tmp_path / "second"), tensors_of(first))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        assert json.loads((tmp_path / "second" / name).read_text()) == json.loads((first / name).read_text()), name


def test_llava_to_llava_keeps_every_file(oracle_dir, tmp_path):
    source = llava_checkpoint(oracle_dir, tmp_path / "source", "next sharded")
    report = export(source, "llava", tmp_path / "llava-copy", progress=False)
    assert_same_tensors(tensors_of(tmp_path / "llava-copy"), tensors_of(source))
    for file in ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.model"):
        assert (tmp_path / "llava-copy" / file).read_bytes() == (source / file).read_bytes()
    assert any("mm_vision_tower" in note and "this machine" in note for note in report.notes)
    assert any(
        "'llava'" in note or "llava" in note
        for note in export(source, "llava", tmp_path / "copy", progress=False).notes
    )


@pytest.mark.parametrize("kind", ["clip", pytest.param("next", marks=pytest.mark.slow)])
def test_a_folder_of_plain_transformers(kind, oracle_dir, tmp_path):
    """A llava-hf folder: no entry of LLaVA's, a vocabulary padded with drawn rows, the tower always inside."""
    source = llava_checkpoint(oracle_dir, tmp_path / "source", "v1.5" if kind == "clip" else "next")
    export(source, "hf", tmp_path / "hf", progress=False)
    from safetensors.torch import load_file, save_file

    state = load_file(tmp_path / "hf" / "model.safetensors")
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        state[name][700:] = torch.randn(4, 64)
    save_file(state, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    ours = [name for name in config if name.startswith(("mm_", "tune_", "unfreeze_")) or name == "llava_vocab_size"]
    edit_json(tmp_path / "hf" / "config.json", **dict.fromkeys([*ours, "anyres_rule", "image_aspect_ratio"]))
    (tmp_path / "hf" / "export.json").unlink()
    with pytest.raises(CheckpointError, match="give its name or folder with --vision-tower"):
        export(tmp_path / "hf", "llava", tmp_path / "llava-made", progress=False)
    assert not (tmp_path / "llava-made").exists()
    tower = str(oracle_dir / CLIP)
    report = export(tmp_path / "hf", "llava", tmp_path / "llava-made", vision_tower=tower, progress=False)
    assert any("rows 700 to 703 (<image>, <pad>) were left out" in note for note in report.notes)
    made = tensors_of(tmp_path / "llava-made")
    assert all(torch.equal(made[name], value) for name, value in tensors_of(source).items())
    assert any(name.startswith("model.vision_tower.vision_tower.vision_model.") for name in made)
    assert json.loads((tmp_path / "llava-made" / "config.json").read_text())["unfreeze_mm_vision_tower"] is True
    export(tmp_path / "llava-made", "hf", tmp_path / "again", progress=False)
    again = tensors_of(tmp_path / "again")
    assert again.keys() == state.keys()
    for name, value in state.items():
        kept = 700 if len(value.shape) and len(value) == 704 else None
        assert torch.equal(again[name][:kept] if value.dim() else again[name], value[:kept] if value.dim() else value)
