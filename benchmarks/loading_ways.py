"""Ways to load a checkpoint on the CPU, and what one of them costs the process that it runs in (Linux)."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import llava

OURS, OURS_FLOAT32 = "ours", "ours, to float32"
TRANSFORMERS, PLAIN = "transformers' from_pretrained", "all files read, then load_state_dict"


def load_ours(folder: Path, dtype: str = "auto") -> nn.Module:
    """`load_pretrained_model` on the CPU."""
    from llava import load_pretrained_model

    return load_pretrained_model(folder, torch_dtype=dtype, device="cpu")[1]


def load_transformers(folder: Path) -> nn.Module:
    """Plain transformers; its format only."""
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(folder, dtype="auto")


def load_plainly(folder: Path) -> nn.Module:
    """As programs do that know no better: the state dict is whole when the model is filled."""
    from llava.kinds.families import family_of
    from llava.model.checkpoints.parts import parts_of_checkpoint

    parts = parts_of_checkpoint(folder)
    state = {name: tensor.read() for name, tensor in parts.state.items()}
    with torch.device("meta"):
        model = family_of(parts.config).model()(parts.config).to(torch.bfloat16)
    model.to_empty(device="cpu").load_state_dict(state)
    return model


WAYS: dict[str, Callable[[Path], nn.Module]] = {
    OURS: load_ours,
    OURS_FLOAT32: lambda folder: load_ours(folder, "float32"),
    TRANSFORMERS: load_transformers,
    PLAIN: load_plainly,
}


def memory(entry: str) -> int:
    """Bytes of an entry of this process's status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry + ":"))


def bytes_read() -> int:
    """Bytes that read calls have returned to this process."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(lines[0].removeprefix("rchar: "))


class Watch(threading.Thread):
    """Notes the highest anonymous memory."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest = 0
        self.is_over = threading.Event()

    def run(self) -> None:
        """Looks every few milliseconds."""
        while not self.is_over.wait(0.003):
            self.highest = max(self.highest, memory("RssAnon"))


def measure_load(way: str, folder: Path, small: Path, package: str) -> dict[str, Any]:
    """Loads in this process and counts.

    Args:
        way: Of `WAYS`.
        folder: The checkpoint.
        small: Another in transformers' format, loaded first and not counted: imports are not the price of a load.
        package: File of the package that is to be measured.

    Raises:
        RuntimeError: This process has another one.
    """
    if llava.__file__ != package:
        raise RuntimeError(f"{llava.__file__} would be measured, not {package}; set PYTHONPATH to the repository")
    WAYS[way](small)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM
    before, anonymous, read = memory("VmRSS"), memory("RssAnon"), bytes_read()
    watch = Watch()
    watch.start()
    start = time.perf_counter()
    model = WAYS[way](folder)
    loaded = time.perf_counter() - start
    read = bytes_read() - read
    for parameter in model.parameters():
        parameter.detach().flatten()[::512].float().sum()  # a value of each page
    seconds = time.perf_counter() - start
    watch.is_over.set()
    watch.join()
    return {
        "model": sum(tensor.nbytes for tensor in {*model.parameters(), *model.buffers()}),
        "peak": memory("VmHWM") - before,
        "anonymous": watch.highest - anonymous,
        "read": read,
        "loaded": loaded,
        "seconds": seconds,
    }
