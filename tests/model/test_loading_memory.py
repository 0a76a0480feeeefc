"""A load reads each tensor once, into the memory that the model keeps, and leaves nothing mapped from the files."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava import load_pretrained_model
from llava.analysis.counting import count
from llava.model.checkpoints.files import CheckpointError, open_tensors
from llava.model.checkpoints.stored_tensor import StoredTensor
from tests.model.tiny import hf_llava

TINY = Path(__file__).resolve().parents[2] / "playground" / "tiny" / "model"


class Reads:
    """Bytes that were read from files and are still held, now and at their highest; torch's own counts miss these."""

    def __init__(self, monkeypatch):
        self.live = self.peak = 0
        original = StoredTensor.read

        def read(stored):
            tensor = original(stored)
            size = tensor.untyped_storage().nbytes()
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(tensor.untyped_storage(), self.drop, size)
            return tensor

        monkeypatch.setattr(StoredTensor, "read", read)

    def drop(self, size: int) -> None:
        self.live -= size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_peak_is_the_model(dtype, monkeypatch):
    """In the dtype of the checkpoint, and in another one."""
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # what is counted is this thread's
    reads, made = Reads(monkeypatch), []
    counts = count(lambda: made.append(load_pretrained_model(TINY, device="cpu", torch_dtype=dtype)[1]), "cpu")
    model = made[0]
    size = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    assert next(model.parameters()).dtype == dtype
    assert size * 0.99 <= counts.peak_bytes + reads.peak <= size * 1.1


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_each_tensor_is_read_once_and_nothing_stays_mapped(suffix, tmp_path, monkeypatch):
    hf_llava().save_pretrained(tmp_path)
    file = tmp_path / f"{'model' if suffix == 'safetensors' else 'pytorch_model'}.{suffix}"
    if suffix == "bin":
        torch.save(load_file(tmp_path / "model.safetensors"), file)
        (tmp_path / "model.safetensors").unlink()
    read: list[StoredTensor] = []
    original = StoredTensor.read
    monkeypatch.setattr(StoredTensor, "read", lambda stored: read.append(stored) or original(stored))
    from llava.model.builder import instantiate
    from llava.model.checkpoints.parts import parts_of_checkpoint

    parts = parts_of_checkpoint(tmp_path)
    assert not read
    model = instantiate(parts, dtype="auto")
    assert len(read) == len(parts.state) == len({id(stored) for stored in read})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with file.open("r+b") as stream:  # in place, where a mapped model would change with it
        stream.write(b"\xff" * file.stat().st_size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    if Path("/proc/self/maps").exists():
        assert str(file) not in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_bins_hold_views_strides_and_older_formats(tmp_path):
    whole = torch.arange(24.0).view(4, 6)
    tensors = {"whole": whole, "row": whole[1], "turned": whole.t(), "half": whole.half(), "none": whole[:0]}
    for name, archive in (("new.bin", True), ("old.bin", False)):
        torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=archive)
        for stored_name, stored in open_tensors([tmp_path / name]).items():
            value = stored.read()
            assert (stored.shape, stored.dtype) == (tuple(value.shape), value.dtype)
            assert torch.equal(value, tensors[stored_name]), (name, stored_name)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_file_that_is_cut_while_it_is_read_is_named(suffix, tmp_path):
    from llava.model.builder import instantiate
    from llava.model.checkpoints.parts import parts_of_checkpoint

    hf_llava().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    if suffix == "bin":
        torch.save(load_file(file), tmp_path / "pytorch_model.bin")
        file.unlink()
        file = tmp_path / "pytorch_model.bin"
    parts = parts_of_checkpoint(tmp_path)
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)
    said = {"safetensors": r"[\w.]+\.weight cannot be read", "bin": r"ends in the middle of [\w.]+\.weight"}[suffix]
    with pytest.raises(CheckpointError, match=f"{file}: {said}"):
        instantiate(parts, dtype="auto")


def test_a_dtype_that_is_not_known_is_told(tmp_path):
    save_file({"a": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: a is of dtype C64"):
        open_tensors([tmp_path / "model.safetensors"])
