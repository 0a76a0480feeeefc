"""A run whose folder was moved or renamed goes on, and ends, as if it had stayed."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from llava.train.arguments import parse_arguments
from llava.train.interruption import Interrupted
from llava.train.run import execute, prepare, train

# The loss falls, so the best of these checkpoints is an early one.
BEST = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}


class _Stop(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def run(flags, oracle_dir):
    """Flags of four steps with a checkpoint each, in a folder."""

    def run(output_dir: Path, **changes) -> list[str]:
        data = {"eval_data_path": oracle_dir / "train_tiny.json", "eval_strategy": "steps", "eval_steps": 1}
        saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 5}
        return flags(**{"stage": "projector", "output_dir": output_dir, **data, **saving, **BEST, **changes})

    return run


def result(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "mm_projector.safetensors")


def same(folder: Path, expected: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, expected[name]) for name, tensor in result(folder).items())


def test_a_moved_run_goes_on_and_a_moved_result_is_made_again(run, tmp_path):
    trainer = train(run(tmp_path / "here"))
    best, expected = Path(trainer.state.best_model_checkpoint), result(tmp_path / "here")
    assert best.name != "checkpoint-5"

    stopped = prepare(parse_arguments(run(tmp_path / "stopped")))
    stopped.trainer.add_callback(_Stop())
    with pytest.raises(Interrupted):
        execute(stopped)
    shutil.move(tmp_path / "stopped", tmp_path / "a new place")
    train(run(tmp_path / "a new place"))
    assert same(tmp_path / "a new place", expected)

    shutil.move(tmp_path / "here", tmp_path / "there")
    (tmp_path / "there" / "mm_projector.safetensors").unlink()
    train(run(tmp_path / "there"))  # complete: its result is written again
    assert same(tmp_path / "there", expected)

    shutil.rmtree(tmp_path / "there" / best.name)
    with pytest.raises(ValueError, match=rf"is complete.*{best.name}.*it has no files\.json.*--load_best_model_at_end"):
        train(run(tmp_path / "there"))
    assert same(tmp_path / "there", expected)
    train(run(tmp_path / "there", load_best_model_at_end=False))
    assert not same(tmp_path / "there", expected)
