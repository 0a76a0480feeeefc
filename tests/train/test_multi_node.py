"""Two nodes, as docs/multi-node.md starts them: two torchrun agents that meet over the network, here loopback's."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.conftest import free_port, losses_of

ROOT = Path(__file__).parents[2]
LAUNCHED = Path(__file__).with_name("launched.py")
NODES = 2

pytestmark = pytest.mark.slow


def start_agent(rank: int, port: int, words: list[str], report: Path) -> subprocess.Popen:
    own = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "REPORT": str(report),
    }
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(NODES), "--node_rank", str(rank)]
    agent += ["--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", str(port)]
    command = [*agent, str(LAUNCHED), *words]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run_nodes(words: list[list[str]], report: Path) -> dict:
    """What the first process of a run on as many nodes as there are lists of flags ended with."""
    port = free_port()
    agents = [start_agent(rank, port, own, report) for rank, own in enumerate(words)]
    try:
        said = [agent.communicate(timeout=300)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0] * len(words), "\n".join(text[-4000:] for text in said)
    return json.loads(report.read_text())


@pytest.mark.parametrize("is_shared", [True, False], ids=["shared", "own_disks"])
def test_two_nodes_equal_one_process(is_shared, flags, oracle_dir, tmp_path):
    """On a shared file system, and with an output folder and checkpoints of each node's own."""
    from llava.train.train import train

    records = json.loads((oracle_dir / "train_tiny.json").read_text())
    data = tmp_path / "six.json"
    data.write_text(json.dumps([*records, *reversed(records)]))
    common = {
        "stage": "projector",
        "compression": "visionzip:54+10",
        "data_path": data,
        "num_train_epochs": 1,
        "global_batch_size": 2,
        "train_sampling_strategy": "sequential",
        "learning_rate": "1e-3",
    }
    saving = {"save_strategy": "steps", "save_steps": 2, "save_on_each_node": not is_shared}
    folders = [tmp_path / "both" if is_shared else tmp_path / f"node{rank}" for rank in range(NODES)]
    words = [flags(**common, **saving, output_dir=folder) for folder in folders]
    found = run_nodes(words, tmp_path / "report.json")
    one = train(flags(**common, output_dir=tmp_path / "one"))
    assert (found["wrapper"], found["world_size"]) == ("DistributedDataParallel", NODES)
    assert len(found["losses"]) == 3
    assert found["losses"] == pytest.approx(losses_of(one), abs=1e-4)
    for folder in folders:
        assert (folder / "mm_projector.safetensors").is_file()
        assert (folder / "checkpoint-2" / "trainer_state.json").is_file()
        if not is_shared:
            shutil.rmtree(folder / "checkpoint-3")
    if not is_shared:  # each node goes on from its own checkpoint
        assert run_nodes(words, tmp_path / "again.json")["losses"] == pytest.approx(found["losses"], abs=1e-6)


SRUN = """#!/usr/bin/env bash
# Stands in for Slurm: two tasks on one node; tells the first job, when it has a checkpoint, that its time is over.
shift
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 "$@" & tasks="${tasks:-} $!"; done
if [[ ! -e $CALLS ]]; then
  while [[ ! -e $OUTPUT/checkpoint-2/trainer_state.json ]]; do sleep 0.2; kill -0 $tasks || exit 1; done
  kill -USR1 $tasks
fi
status=0
for task in $tasks; do wait "$task" || status=$?; done
exit "$status"
"""
SCONTROL = '#!/usr/bin/env bash\nif [[ $1 == show ]]; then echo 127.0.0.1; else echo "$*" >> "$CALLS"; fi\n'


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_a_slurm_job_is_queued_again_before_its_time_is_over_and_goes_on(oracle_dir, tmp_path):
    """Two processes of DeepSpeed without a launcher, stopped by USR1 and started again."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    folders = (tmp_path, Path(sys.executable).parent, os.environ["PATH"])
    environment = {
        "PATH": os.pathsep.join(map(str, folders)),
        "HOME": os.environ.get("HOME", str(tmp_path)),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "CALLS": str(tmp_path / "calls"),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node1",
        "MASTER_PORT": str(free_port()),
        "RECIPE": "llava-v1.5-7b-visionzip-64",
        "CKPT": str(oracle_dir / "tiny-llava-v1.5"),
        "DATA": str(oracle_dir / "train_tiny.json"),
        "IMAGES": str(oracle_dir / "images"),
        "OUTPUT": str(tmp_path / "out"),
        "CPU": "True",
        "FRACTION": "1",
        "BATCH": "1",
        "GLOBAL_BATCH": "2",
        "WORKERS": "0",
        "SAVE_STEPS": "2",
    }
    command = ["bash", "scripts/slurm/train.sbatch", "--max_steps", "40"]
    for status, calls in ((138, "requeue 7\n"), (0, "requeue 7\n")):
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == status, done.stderr[-5000:]
        assert (tmp_path / "calls").read_text() == calls
        assert (tmp_path / "out" / "mm_projector.safetensors").is_file() == (status == 0)
    assert "resuming from" in done.stderr
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == list(range(1, 41))
    written = json.loads((tmp_path / "out" / "training_args.json").read_text())
    assert written["training"]["deepspeed"] == "zero2"
