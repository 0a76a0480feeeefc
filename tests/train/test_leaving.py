"""The end of a process that still has tensors to free in a thread of gloo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.conftest import launch_environment

# DeepSpeed keeps a reference to the group, as this does: destroying the group then does not end its threads.
PROGRAM = """
import atexit, sys, threading, time
import torch
import torch.distributed as dist
from llava.train.leaving import leaving_group

class Shutdown:
    def __del__(self):
        print("Python's own shutdown", flush=True)

def later():
    time.sleep(0.5)
    print("thread done")

with leaving_group():
    if {in_group}:
        dist.init_process_group("gloo", init_method="file://{folder}/rendezvous", rank=0, world_size=1)
        kept = dist.group.WORLD
        for _ in range(1000):
            dist.all_reduce(torch.ones(100_000), async_op=True)
    seen = Shutdown()
    atexit.register(print, "at exit")
    threading.Thread(target=later).start()
    print("all done")
    {end}
print("went on")
"""
SAID = "all done\n{}thread done\nat exit\n{}"


def run(tmp_path: Path, end: str, in_group: bool, **streams: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(in_group=in_group, folder=tmp_path, end=end)],
        env=launch_environment(PYTHONUNBUFFERED=""),
        cwd=Path(__file__).parents[2],
        text=True,
        timeout=120,
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams),
    )


@pytest.mark.parametrize(
    ("end", "status", "told"),
    [
        ("pass", 0, ""),
        ("raise SystemExit(143)", 143, ""),
        ("raise SystemExit('error: bad data')", 1, "error: bad data\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
    ],
    ids=["finished", "stopped", "refused", "broken"],
)
def test_a_process_of_a_group_ends_with_nothing_lost(end, status, told, tmp_path):
    done = run(tmp_path, end, in_group=True)
    assert (done.returncode, done.stdout) == (status, SAID.format("", ""))
    assert done.stderr.endswith(told) and "terminate called" not in done.stderr


@pytest.mark.parametrize(("end", "status"), [("pass", 0), ("raise SystemExit('error: bad data')", 1)])
def test_a_process_alone_goes_on_as_python_does(end, status, tmp_path):
    done = run(tmp_path, end, in_group=False)
    went_on = "went on\n" if status == 0 else ""
    assert (done.returncode, done.stdout) == (status, SAID.format(went_on, "Python's own shutdown\n"))
    assert ("error: bad data" in done.stderr) == (status == 1)


def test_work_that_is_done_counts_though_nobody_reads_what_is_said(tmp_path):
    with Path("/dev/full").open("w") as full:
        assert run(tmp_path, "pass", in_group=True, stdout=full).returncode == 0
