"""Host memory and reading of a load: a random checkpoint with LLaVA-1.5-13B's layers, as many as make the size.

    python benchmarks/loading.py --gigabytes 2.5 --format hf

Each way to load is a new process that counts from after its imports until every weight has been looked at once (a
file that is merely mapped costs nothing before). Memory is the kernel's count of the process (Linux), `anonymous` is
the part that it cannot take back. Bytes read are those of read calls; pages of a mapped file are none. What was made is
removed.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from export_memory import make_checkpoint, make_tower
from report import Cell, Goal, Report
from torch import nn

OURS, OURS_FLOAT32 = "ours", "ours, to float32"
TRANSFORMERS, PLAIN = "transformers' from_pretrained", "all files read, then load_state_dict"
_MIB = 2**20
NOTES = [
    "transformers maps the file and copies nothing, so from a warm page cache it has the model sooner. Ours copies "
    "each tensor once, into memory that neither changes nor goes with the file; why stands in `docs/decisions.md`.",
]


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
    from llava.model.loading import parts_of_checkpoint

    parts = parts_of_checkpoint(folder)
    state = {name: tensor.read() for name, tensor in parts.state.items()}
    with torch.device("meta"):
        model = parts.model_class(parts.config).to(torch.bfloat16)
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


def measure_here(way: str, folder: Path) -> dict[str, Any]:
    """Loads in this process and counts."""
    import llava.model.builder  # noqa: F401

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


def measure(way: str, folder: Path, output: Path) -> dict[str, Any]:
    """Loads in a new process and counts."""
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--json", str(output)]
    subprocess.run(command, check=True)
    found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return found


def row(way: str, found: dict[str, Any]) -> dict[str, Cell]:
    """A row of the table."""
    return {
        "way": way,
        "model MiB": round(found["model"] / _MIB),
        "peak MiB": round(found["peak"] / _MIB),
        "peak over model": found["peak"] / found["model"],
        "anonymous MiB": round(found["anonymous"] / _MIB),
        "read MiB": round(found["read"] / _MIB),
        "loaded after s": found["loaded"],
        "all looked at after s": found["seconds"],
    }


def compare(arguments: argparse.Namespace, work: Path) -> None:
    """Makes the checkpoint, loads it in every way, and tells."""
    source = work / "llava-random"
    make_tower(work / "clip")
    layers = make_checkpoint(source, work / "clip", int(arguments.gigabytes * 1e9))
    if arguments.format == "hf":
        command = [sys.executable, "-m", "llava.hub.export", str(source), "--to", "hf", "--output", str(work / "hf")]
        subprocess.run([*command, "--max-shard-size", "1GB"], check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(source)
        source = work / "hf"
    ways = [way for way in WAYS if way != TRANSFORMERS or arguments.format == "hf"]
    found = {way: measure(way, source, work / "found.json") for way in ways}
    size = found[OURS]["model"]
    Report(
        benchmark="loading",
        title="Host memory of loading a checkpoint on the CPU",
        device=torch.device("cpu"),
        setting={"format": arguments.format, "layers": layers, "gigabytes": round(size / 1e9, 2), "dtype": "bfloat16"},
        rows=[row(way, one) for way, one in found.items()],
        ratios={
            "peak_ratio": found[OURS]["peak"] / size,
            "peak_ratio_float32": found[OURS_FLOAT32]["peak"] / found[OURS_FLOAT32]["model"],
            "peak_ratio_plain": found[PLAIN]["peak"] / size,
            "read_ratio": found[OURS]["read"] / size,
        },
        goals=[
            Goal("peak host memory over the checkpoint", found[OURS]["peak"] / size, at_most=1.1),
            Goal(
                "peak host memory over the model, loaded in another dtype",
                found[OURS_FLOAT32]["peak"] / found[OURS_FLOAT32]["model"],
                at_most=1.1,
            ),
            Goal("bytes read over the checkpoint (each tensor once)", found[OURS]["read"] / size, at_most=1.02),
        ],
        notes=NOTES if TRANSFORMERS in found else [],
    ).tell(arguments.json)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures the host memory of loading a checkpoint.")
    parser.add_argument("--gigabytes", type=float, default=2.5, help="least size of the checkpoint (default 2.5)")
    parser.add_argument("--format", choices=["hf", "llava"], default="hf", help="of the checkpoint (default hf)")
    parser.add_argument("--work", type=Path, help="folder with room for twice as much (default: the system's)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not 0 < arguments.gigabytes < math.inf:
        parser.error(f"--gigabytes {arguments.gigabytes:g}: give a size above 0")
    if arguments.work is not None and not arguments.work.is_dir():
        parser.error(f"--work {arguments.work}: there is no such folder; make it first")
    if arguments.way is not None and (arguments.folder is None or arguments.json is None):
        parser.error("--way is for this script's own processes; without it, all ways are measured")
    if not Path("/proc/self/clear_refs").exists():
        parser.error("memory is counted by Linux's /proc, which is not here")
    if arguments.way is not None:
        arguments.json.write_text(json.dumps(measure_here(arguments.way, arguments.folder)), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        compare(arguments, Path(work))


if __name__ == "__main__":
    main()
