"""The end of a process that still has tensors to free in a thread of gloo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.conftest import launch_environment

# DeepSpeed keeps a reference to the group, as this does: destroying the group then does not end its threads.
PROGRAM = """
import atexit, sys
import torch
import torch.distributed as dist
from accelerate import Accelerator
from llava.train.leaving import leave

accelerator = Accelerator(cpu=True)
if {in_group}:
    dist.init_process_group("gloo", init_method="file://{folder}/rendezvous", rank=0, world_size=1)
    kept = dist.group.WORLD
    for _ in range(2000):
        dist.all_reduce(torch.ones(100_000), async_op=True)
atexit.register(print, "at exit")
print("all done")
leave(accelerator, {status})
"""


@pytest.mark.parametrize("in_group", [True, False])
@pytest.mark.parametrize("status", [0, 143])
def test_ends_with_its_status_and_nothing_lost(in_group, status, tmp_path):
    program = PROGRAM.format(in_group=in_group, folder=tmp_path, status=status)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=launch_environment(),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    assert done.stdout == "all done\nat exit\n"
