"""What every room's tests share: the reference's recorded outputs and checkpoints."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava.kinds import plugins

FIXTURES = Path(__file__).parent / "fixtures" / "oracle"

# The fixtures are a selection; `make parity ORACLE=...` points this at the whole recording.
ORACLE = Path(os.environ.get("ORACLE") or FIXTURES)


def pytest_collection_finish() -> None:
    """What the imports made stays: collections of garbage, one after every training run, need not look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def oracle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A writable copy of the reference's checkpoints, their vision tower's path filled in."""
    folder = tmp_path_factory.mktemp("oracle") / "oracle"
    shutil.copytree(ORACLE, folder, ignore=shutil.ignore_patterns("v15_*.npz", "v16_*.npz", "fp16_*.npz"))
    for file in [folder, *folder.rglob("*")]:
        file.chmod(0o755 if file.is_dir() else 0o644)
        if file.suffix == ".json" and "@ORACLE@" in (text := file.read_text(encoding="utf-8")):
            file.write_text(text.replace("@ORACLE@", str(folder)), encoding="utf-8")
    for file in folder.glob("origtrain/mm_projector*.safetensors"):  # LLaVA wrote .bin; the repository holds no pickles
        torch.save(load_file(file), file.with_suffix(".bin"))
    return folder


@pytest.fixture(scope="module", autouse=True)
def forget_plugins() -> Iterator[None]:
    """What a file's tests load as plug-ins is in no record that other files' tests make."""
    before = dict(plugins._LOADED)
    yield
    plugins._LOADED.clear()
    plugins._LOADED.update(before)
