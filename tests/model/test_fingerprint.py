"""Fingerprints: every byte of every file that a model is loaded from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llava.model.checkpoints.files import CheckpointError
from llava.model.checkpoints.fingerprint import model_fingerprint

MIB = 2**20


def checkpoint(folder: Path, weights: str = "model.safetensors", **config: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / weights).write_bytes(b"1234")
    return folder


def test_it_sees_weights_config_and_base(tmp_path: Path) -> None:
    folder, base = checkpoint(tmp_path / "m"), checkpoint(tmp_path / "b")
    first = model_fingerprint(folder)
    assert model_fingerprint(folder) == first
    assert model_fingerprint(folder, base) != first
    (folder / "model.safetensors").write_bytes(b"1235")
    assert model_fingerprint(folder) != first
    with pytest.raises(CheckpointError, match="no such folder"):
        model_fingerprint(tmp_path / "nowhere")


def test_it_sees_a_change_anywhere_in_a_large_file(tmp_path: Path) -> None:
    folder, cache = checkpoint(tmp_path / "m"), tmp_path / "out" / "hashes.json"
    weights = folder / "model.safetensors"
    with weights.open("wb") as stream:
        stream.truncate(80 * MIB)
    first = model_fingerprint(folder, cache=cache)
    before = weights.stat().st_mtime_ns
    for at in (20 * MIB, 79 * MIB):
        with weights.open("r+b") as stream:
            stream.seek(at)
            stream.write(b"\1")
        os.utime(weights, ns=(before, before + at))
        changed = model_fingerprint(folder, cache=cache)
        assert changed != first and changed == model_fingerprint(folder) == model_fingerprint(folder, cache=cache)
        first = changed
    # The cache is what spares the second reading: with another hash in it, there is another fingerprint.
    entries = json.loads(cache.read_text())
    assert list(entries) == [str(weights.resolve())]
    cache.write_text(json.dumps({key: [*value[:2], "other"] for key, value in entries.items()}))
    assert model_fingerprint(folder, cache=cache) != first
    cache.write_text("damaged")
    assert model_fingerprint(folder, cache=cache) == first


def test_it_sees_the_base_that_a_projectors_config_names(tmp_path: Path) -> None:
    tower, base = checkpoint(tmp_path / "tower"), checkpoint(tmp_path / "base", mm_vision_tower="../tower")
    projector = checkpoint(tmp_path / "p", "mm_projector.safetensors", base_model_name_or_path=str(base))
    seen = {model_fingerprint(projector)}
    assert model_fingerprint(projector, base) in seen
    for part in (base, tower):
        (part / "model.safetensors").write_bytes(b"9999")
        seen.add(model_fingerprint(projector))
    assert len(seen) == 3


@pytest.mark.parametrize("with_config", [True, False])
def test_it_sees_the_base_of_adapters(tmp_path: Path, with_config: bool) -> None:
    """peft writes no config.json; a base may itself be a projector on a language model."""
    llm = checkpoint(tmp_path / "llm")
    base = checkpoint(tmp_path / "base", "mm_projector.safetensors", base_model_name_or_path=str(llm))
    adapter = checkpoint(tmp_path / "adapter", "adapter_model.safetensors")
    if not with_config:
        (adapter / "config.json").unlink()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    seen = {model_fingerprint(adapter)}
    assert model_fingerprint(adapter, base) in seen
    for file in ("adapter/adapter_model.safetensors", "base/mm_projector.safetensors", "llm/model.safetensors"):
        (tmp_path / file).write_bytes(b"9999")
        seen.add(model_fingerprint(adapter))
    assert len(seen) == 4
