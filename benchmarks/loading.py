"""Host memory and reading of a load: a random checkpoint with LLaVA-1.5-13B's layers, as many as make the size.

    python benchmarks/loading.py --gigabytes 2.5 --format hf

Each way to load has a process of its own, forked from one that has done the imports, and counts until every weight has
been looked at once (a file that is merely mapped costs nothing before). Memory is the kernel's count of the process
(Linux), `anonymous` is the part that it cannot take back. Bytes read are those of read calls; pages of a mapped file
are none. What was made is removed.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from export_memory import make_checkpoint, make_tower
from loading_ways import OURS, OURS_FLOAT32, PLAIN, TRANSFORMERS, WAYS, measure_load
from loops import TINY
from report import Cell, Goal, Report

import llava
from llava.hub.export import export

_MIB = 2**20
NOTES = [
    "transformers maps the file and copies nothing, so from a warm page cache it has the model sooner. Ours copies "
    "each tensor once, into memory that neither changes nor goes with the file; why stands in `docs/decisions.md`.",
]


def processes() -> ProcessPoolExecutor:
    """Runs each task in a new process, where the imports that take long are done already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["llava.model.builder", "llava.hub.export"])
    return ProcessPoolExecutor(max_workers=1, mp_context=context, max_tasks_per_child=1)


def measured(pool: ProcessPoolExecutor, way: str, folder: Path) -> dict[str, Any]:
    """What a way costs a process of its own.

    Raises:
        SystemExit: The process was killed.
    """
    try:
        return pool.submit(measure_load, way, folder, TINY, llava.__file__).result()
    except BrokenProcessPool as error:
        raise SystemExit(f"{way}: its process was killed, as for want of memory; give fewer --gigabytes") from error


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
    ways = [way for way in WAYS if way != TRANSFORMERS or arguments.format == "hf"]
    with processes() as pool:
        if arguments.format == "hf":
            pool.submit(export, source, "hf", work / "hf", max_shard_size="1GB", progress=False).result()
            shutil.rmtree(source)
            source = work / "hf"
        found = {way: measured(pool, way, source) for way in ways}
    size = found[OURS]["model"]
    Report(
        benchmark="loading",
        title="Host memory of loading a checkpoint on the CPU",
        device=torch.device("cpu"),
        setting={
            "format": arguments.format,
            "layers": layers,
            "gigabytes, tower included": round(size / 1e9, 2),
            "dtype": "bfloat16",
        },
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
    parser.add_argument("--gigabytes", type=float, default=2.5, help="of the language model, at least (default 2.5)")
    parser.add_argument("--format", choices=["hf", "llava"], default="hf", help="of the checkpoint (default hf)")
    parser.add_argument("--work", type=Path, help="folder with room for twice as much (default: the system's)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not 0 < arguments.gigabytes < math.inf:
        parser.error(f"--gigabytes {arguments.gigabytes:g}: give a size above 0")
    if arguments.work is not None and not arguments.work.is_dir():
        parser.error(f"--work {arguments.work}: there is no such folder; make it first")
    if not Path("/proc/self/clear_refs").exists():
        parser.error("memory is counted by Linux's /proc, which is not here")
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        compare(arguments, Path(work))


if __name__ == "__main__":
    main()
