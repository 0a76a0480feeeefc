"""What a run says and does when it ends: finished, finished before, stopped at the terminal, or with nothing usable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from llava.inference import Inference
from llava.train.arguments import parse_arguments
from llava.train.checkpoint import why_not_whole
from llava.train.interruption import Interrupted, StopSignals
from llava.train.run import execute, main, prepare, train
from llava.train.watch import DivergedError, check_weights
from tests.train.conftest import launch_environment

ROOT = Path(__file__).parents[2]
TUNING = "llava-v1.5-7b-visionzip-64"


def test_the_last_lines_say_where_the_result_is_and_what_to_do_next(flags, tmp_path, caplog):
    command = flags(stage="projector", max_steps=2, save_strategy="steps", save_steps=1)
    with caplog.at_level("INFO", logger="llava.train.run"):
        train(command)
    assert caplog.messages[0] == "training on 3 of 3 samples"
    out = tmp_path / "out"
    assert caplog.messages[-1].splitlines() == [
        f"trained on 3 of 3 samples in 2 steps; the result is in {out}",
        "next:",
        f"    llava ask --model-path {out} --image-file IMAGE --query QUESTION",
        f"    llava eval --model-path {out} --tasks all --output-dir runs/out",
        f"    llava export {out} --to hf --output-dir {out}-hf",
    ]
    caplog.clear()
    with caplog.at_level("INFO", logger="llava.train.run"):
        train(command)
    assert caplog.messages[-1].startswith("already complete: trained on 3 of 3 samples in 2 steps")


def test_an_own_compressor_trains_from_a_cache_and_its_result_is_asked_with_it(flags, tmp_path, caplog):
    plugin = str(ROOT / "tests" / "fixtures" / "plugins" / "corner_first.py")
    words = flags(stage="projector", max_steps=2, compression="corner_first:20,row=3", feature_cache=tmp_path / "cache")
    with caplog.at_level("INFO", logger="llava.train.run"):
        trainer = train([*words, "--plugin", plugin])
    assert {entry["visual_tokens_per_sample"] for entry in trainer.state.log_history if "loss" in entry} <= {20, 0}
    assert caplog.messages[-1].count(f" --plugin {plugin}") == 3
    assert Inference.load(tmp_path / "out", device="cpu").model.config.compression["plugin"] == "corner_first.py"


class _Press(TrainerCallback):
    """Ctrl-C when a step begins, so many times with a pause between them."""

    def __init__(self, step: int, times: int) -> None:
        self.step, self.times = step, times

    def on_step_begin(self, args, state, control, **kwargs):
        for number in range(self.times if state.global_step == self.step else 0):
            time.sleep(1.1 if number else 0)
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_and_ends(flags, tmp_path):
    run = prepare(parse_arguments(flags(stage="projector", num_train_epochs=2)))
    run.trainer.add_callback(_Press(2, times=1))
    with pytest.raises(Interrupted, match="stopped by SIGINT after step 3; the same command goes on") as caught:
        execute(run)
    assert caught.value.exit_status == 130
    assert why_not_whole(tmp_path / "out" / "checkpoint-3") is None


def test_a_second_ctrl_c_ends_at_once(flags, tmp_path):
    run = prepare(parse_arguments(flags(stage="projector", num_train_epochs=2)))
    run.trainer.add_callback(_Press(2, times=2))
    with pytest.raises(KeyboardInterrupt):
        execute(run)
    assert not list((tmp_path / "out").glob("checkpoint-*"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_press_that_arrives_twice_is_one_and_an_ignored_signal_stays_ignored():
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # by the terminal, and by the launcher
        os.kill(os.getpid(), signal.SIGTERM)
    assert signals.received == signal.SIGINT
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize(("presses", "status"), [(1, 130), (2, 130)])
def test_ctrl_c_at_a_terminal(presses, status, flags, oracle_dir, tmp_path):
    """It reaches the whole process group, the data-loading workers too."""
    records = json.loads((oracle_dir / "train_tiny.json").read_text()) * 1000
    (tmp_path / "long.json").write_text(json.dumps(records))
    arguments = flags(stage="projector", data_path=tmp_path / "long.json", dataloader_num_workers=2)
    if presses == 2:  # a step that takes longer than anybody waits
        arguments += ["--per_device_train_batch_size", "300"]
    started = subprocess.Popen(
        [sys.executable, "-m", "llava.train.train", *arguments],
        env=launch_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said = []
    for line in started.stdout:
        said.append(line)
        if "'loss'" in line or (presses == 2 and "training on" in line):
            break
    if presses == 2:
        time.sleep(6)  # into the first step
    os.killpg(started.pid, signal.SIGINT)
    if presses == 2:
        time.sleep(1.2)
        os.killpg(started.pid, signal.SIGINT)
    said += started.stdout.readlines()
    text = "".join(said)
    assert started.wait(timeout=60) == status, text[-3000:]
    assert "Traceback" not in text and "one more, a second later, ends the run at once" in text
    assert ("stopped at once" in text) == (presses == 2)
    checkpoints = list((tmp_path / "out").glob("checkpoint-*"))
    assert [why_not_whole(folder) for folder in checkpoints] == ([None] if presses == 1 else [])


def test_ctrl_c_while_packages_are_imported():
    """They take seconds; nothing has been read by then."""
    program = """
import sys

class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Pressed())
from llava.train.train import main
sys.argv = ["train.py", "--output_dir", "out"]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], env=launch_environment(), capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr == "\nstopped before anything was read\n"


def test_weights_that_blew_up_are_told_and_not_written(flags, tmp_path, monkeypatch):
    """After one step the loss does not show it yet."""
    monkeypatch.setattr("sys.argv", ["train.py", *flags(stage="projector", max_steps=1, learning_rate="1e30")])
    with pytest.raises(SystemExit, match=r"error: the weights have blown up: .* reaches 1e\+30, .*--learning_rate"):
        main()
    assert not (tmp_path / "out" / "mm_projector.safetensors").exists()


@pytest.mark.parametrize("value", [1e6, -1e6, float("inf"), float("nan")])
def test_one_weight_will_do(value):
    check_weights(
        {"fine": torch.tensor([65504.0, -65504.0]), "empty": torch.zeros(0), "quantised": torch.zeros(2).int()}
    )
    with pytest.raises(DivergedError, match="weight reaches"):
        check_weights({"weight": torch.tensor([0.0, value])})


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
def test_a_machine_without_a_gpu_is_told_what_to_say_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "llava.train.train_mem", "--recipe", TUNING, "--output_dir", str(tmp_path)]
    done = subprocess.run(command, env=launch_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == (
        "error: --bf16 True: torch finds no GPU on this machine; to train on the CPU give --use_cpu True --bf16 False "
        "(to the scripts: CPU=True BF16=False)\n"
    )


def test_fp16_on_the_cpu_is_refused(flags):
    with pytest.raises(ValueError, match=r"--fp16 True: the CPU cannot train in fp16; .*FP16=False"):
        train(flags(stage="projector", fp16=True))
