"""A run that is stopped, whose disk is full or whose data are bad: nothing is lost, and the reason is told."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import TrainerCallback

from llava.train.arguments import parse_arguments
from llava.train.checkpoint import check_processes, checkpoint_to_resume, seal, unseal, why_not_whole
from llava.train.interruption import Interrupted, StopSignals
from llava.train.run import execute, main, prepare, train
from llava.train.run_key import write_key
from tests.train.conftest import losses_of

ROOT = Path(__file__).parents[2]
KEY = {"--stage": "projector"}


def _checkpoint(folder: Path) -> Path:
    folder.mkdir()
    write_key(folder, KEY)
    (folder / "weights").write_bytes(b"12345")
    (folder / "global_step1").mkdir()
    (folder / "global_step1" / "shard").write_bytes(b"123")
    seal(folder)
    (folder / "trainer_state.json").write_text("{}")
    return folder


DAMAGE = {
    "it has no files.json": lambda folder: (folder / "files.json").unlink(),
    "it has no trainer_state.json": lambda folder: (folder / "trainer_state.json").unlink(),
    "it is cut short": lambda folder: (folder / "trainer_state.json").write_text('{"global_step": '),
    "it has no weights": lambda folder: (folder / "weights").unlink(),
    "global_step1/shard has 1 bytes instead of 3": lambda folder: (folder / "global_step1" / "shard").write_bytes(b"1"),
}


@pytest.mark.parametrize("lack", DAMAGE)
def test_a_half_written_checkpoint_is_not_taken(lack, tmp_path):
    assert checkpoint_to_resume(tmp_path, None, KEY) is None
    for step in (2, 10, 12):
        _checkpoint(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-best").mkdir()
    newest = tmp_path / "checkpoint-12"
    assert checkpoint_to_resume(tmp_path, "auto", KEY) == str(newest)
    DAMAGE[lack](newest)
    assert lack in why_not_whole(newest)
    assert checkpoint_to_resume(tmp_path, "auto", KEY) == str(tmp_path / "checkpoint-10")
    assert checkpoint_to_resume(tmp_path, "none", KEY) is None
    assert checkpoint_to_resume(tmp_path, str(tmp_path / "checkpoint-2"), KEY) == str(tmp_path / "checkpoint-2")
    with pytest.raises(ValueError, match=f"checkpoint-12 is no whole checkpoint: {lack}"):
        checkpoint_to_resume(tmp_path, str(newest), KEY)


def test_a_checkpoint_without_a_key_is_of_another_run(tmp_path):
    folder = _checkpoint(tmp_path / "checkpoint-1")
    (folder / "run_key.json").unlink()
    seal(folder)
    with pytest.raises(ValueError, match=r"checkpoint-1 is of another run \(it has no run_key\.json\)"):
        checkpoint_to_resume(tmp_path, None, KEY)


def test_a_signal_is_noted_once_and_the_old_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        assert signals.received == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGUSR1
    assert signal.getsignal(signal.SIGTERM) is before


class _SignalAt(TrainerCallback):
    """Sends a signal to this process when a step begins."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stopped_run_saves_first_and_goes_on_exactly(flags, tmp_path):
    """Also without any `--save_steps`, and with the best checkpoint as the only one that is kept."""
    common = {
        "stage": "projector",
        "compression": "visionzip:54+10",
        "num_train_epochs": 2,
        "lr_scheduler_type": "cosine",
    }
    whole = train(flags(**common, output_dir=tmp_path / "whole"))
    cut = flags(**common, output_dir=tmp_path / "cut")
    run = prepare(parse_arguments(cut))
    run.trainer.add_callback(_SignalAt(2))
    with pytest.raises(Interrupted, match="stopped by SIGTERM after step 3") as caught:
        execute(run)
    assert caught.value.exit_status == 143
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["checkpoint-3"]
    names = {path.name for path in (tmp_path / "cut" / "checkpoint-3").iterdir()}
    assert {"trained.safetensors", "optimizer.pt", "trainer_state.json", "files.json"} <= names
    resumed = train(cut)
    assert losses_of(resumed) == pytest.approx(losses_of(whole), abs=1e-6)
    ours, expected = (load_file(tmp_path / name / "mm_projector.safetensors") for name in ("cut", "whole"))
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=0)


def test_a_finished_run_is_not_trained_further(flags, tmp_path):
    """Killed after the last step and before the result was written; `--max_steps` ends inside an epoch."""
    common = flags(stage="projector", max_steps=2, save_strategy="steps", save_steps=1)
    train(common)
    result = tmp_path / "out" / "mm_projector.safetensors"
    before = result.read_bytes()
    result.unlink()
    again = train(common)
    assert result.read_bytes() == before
    assert again.state.global_step == len(losses_of(again)) == 2


def test_an_output_folder_that_cannot_be_written_is_told_before_training(flags, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("sys.argv", ["train.py", *flags(stage="projector", output_dir=tmp_path / "file" / "out")])
    with pytest.raises(SystemExit, match=r"error: .*file/out could not be written: .*choose another --output_dir"):
        main()


def test_too_small_a_disk_is_told_before_training(flags, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("llava.train.checkpoint.shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"has 0\.0 GB free, a checkpoint and the result may take"):
        train(flags(stage="projector"))


LIMITED = """
import resource, signal, sys
from transformers import TrainerCallback
from llava.train.arguments import parse_arguments
from llava.train.run import execute, prepare

class Full(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[1])
run = prepare(parse_arguments(sys.argv[2:]))
run.trainer.add_callback(Full())
execute(run)
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_is_told_and_the_last_whole_checkpoint_stays(flags, tmp_path):
    """The file-size limit of a process stands in for a full disk: writes fail in the middle of a file."""
    script = tmp_path / "limited.py"
    script.write_text(LIMITED)
    arguments = flags(stage="finetune", num_train_epochs=2, save_strategy="steps", save_steps=1, save_total_limit=1)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), "20000", *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "CheckpointWriteError" in last and "checkpoint-2 could not be written" in last
    assert why_not_whole(tmp_path / "out" / "checkpoint-1") is None
    assert why_not_whole(tmp_path / "out" / "checkpoint-2") is not None
    assert len(losses_of(train(arguments))) == 6


def _pictures(folder: Path, num_good: int, num_bad: int) -> Path:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]
    records = []
    for number in range(num_good + num_bad):
        name = f"{number}.png"
        if number < num_bad:
            (folder / name).write_text("no image")
        else:
            Image.new("RGB", (40, 30), "red").save(folder / name)
        records.append({"id": str(number), "image": name, "conversations": turns})
    (folder / "data.json").write_text(json.dumps(records))
    return folder / "data.json"


def test_too_many_bad_images_stop_a_run_and_are_listed(flags, tmp_path):
    data = _pictures(tmp_path, num_good=6, num_bad=2)
    common = {"stage": "projector", "data_path": data, "image_folder": tmp_path, "num_train_epochs": 1}
    train(flags(**common, max_bad_fraction=0.25))
    with pytest.raises(ValueError) as caught:
        train(flags(**common, max_bad_fraction=0.2, output_dir=tmp_path / "b"))
    message = str(caught.value)
    assert "2 images cannot be used" in message and "0.png" in message and "1.png" in message
    listed = (tmp_path / "b" / "bad_images.txt").read_text().splitlines()
    assert listed == [str(tmp_path / "0.png"), str(tmp_path / "1.png")]


@pytest.mark.slow
def test_held_out_data_are_measured_and_the_best_checkpoint_is_the_result(flags, oracle_dir, tmp_path):
    """A learning rate that ruins the model: the first checkpoint is the best one."""
    arguments = flags(
        stage="projector",
        eval_data_path=oracle_dir / "train_tiny.json",
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        load_best_model_at_end=True,
        eval_generate=2,
        max_steps=3,
        per_device_eval_batch_size=2,
        learning_rate=10,
    )
    trainer = train(arguments)
    measured = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in measured] == [1, 2, 3]
    assert all(entry["eval_samples"] == 3 and entry["eval_questions"] == 2 for entry in measured)
    assert all(0 <= entry["eval_accuracy"] <= 1 for entry in measured)
    losses = [entry["eval_loss"] for entry in measured]
    best = min(range(3), key=losses.__getitem__) + 1
    assert trainer.state.best_model_checkpoint == str(tmp_path / "out" / f"checkpoint-{best}")
    with torch.no_grad():
        batch = trainer.data_collator([trainer.eval_dataset[index] for index in range(3)])
        batch.pop("skipped")
        trainer.model.eval()
        alone = trainer.model(**trainer._prepare_inputs(batch)).loss  # the result's, in one batch
    assert float(alone) == pytest.approx(losses[best - 1], rel=1e-5)
    result = (tmp_path / "out" / "mm_projector.safetensors").read_bytes()
    train(arguments)
    assert (tmp_path / "out" / "mm_projector.safetensors").read_bytes() == result  # run again, it is still the best


def test_a_folder_that_is_written_again_is_not_whole_until_it_is(tmp_path):
    folder = _checkpoint(tmp_path / "checkpoint-2")
    unseal(folder)
    assert why_not_whole(folder) == "it has no files.json"


def test_checkpoints_of_an_earlier_run_do_not_hide_those_of_this_one(tmp_path):
    for step, key in ((2, KEY), (4, {"--stage": "finetune"})):
        write_key(_checkpoint(tmp_path / f"checkpoint-{step}"), key)
        seal(tmp_path / f"checkpoint-{step}")
    assert checkpoint_to_resume(tmp_path, None, KEY) == str(tmp_path / "checkpoint-2")
    with pytest.raises(ValueError, match=r"checkpoint-4 is of another run \(--stage was finetune, is lora\)"):
        checkpoint_to_resume(tmp_path, None, {"--stage": "lora"})


def test_a_loss_that_is_no_number_ends_the_run(flags, tmp_path):
    with pytest.raises(ValueError, match=r"the loss of step \d is not a number; lower --learning_rate"):
        train(flags(stage="projector", learning_rate="1e30", num_train_epochs=3))
    assert not (tmp_path / "out" / "mm_projector.safetensors").exists()


def test_a_run_that_learns_nothing_is_told(flags, tmp_path):
    """Shorter than the visual tokens: every answer is cut off."""
    data = _pictures(tmp_path, num_good=3, num_bad=0)
    with pytest.raises(ValueError, match=r"no sample of the last 3 steps has .*--model_max_length 300"):
        train(flags(stage="projector", data_path=data, image_folder=tmp_path, max_steps=3, model_max_length=300))
    with pytest.raises(ValueError, match="--model_max_length 0 leaves nothing"):
        train(flags(stage="projector", model_max_length=0))


def test_the_model_cuts_where_the_data_do(flags):
    trainer = train(flags(stage="projector", max_steps=1, model_max_length=1000))
    assert trainer.model.config.tokenizer_model_max_length == 1000


def test_a_missing_held_out_image_is_told_before_training(flags, tmp_path, oracle_dir):
    data = _pictures(tmp_path, num_good=2, num_bad=0)
    (tmp_path / "1.png").unlink()
    with pytest.raises(ValueError, match=r"1\.png of sample '1' does not exist"):
        train(flags(stage="projector", eval_data_path=data, image_folder=tmp_path, data_path=data))


def test_held_out_data_without_a_target_have_no_loss(flags, tmp_path, oracle_dir):
    run = prepare(parse_arguments(flags(stage="projector", eval_data_path=oracle_dir / "train_tiny.json")))
    run.trainer.eval_dataset.max_length = 1
    assert run.trainer.args.eval_strategy == "epoch"
    assert math.isnan(run.trainer.evaluate()["eval_loss"])


@pytest.mark.slow
def test_a_signal_to_the_whole_group_waits_for_the_step(flags, oracle_dir, tmp_path):
    """As launchers send it: the data-loading workers get it too."""
    records = json.loads((oracle_dir / "train_tiny.json").read_text()) * 1000
    (tmp_path / "long.json").write_text(json.dumps(records))
    arguments = flags(stage="projector", data_path=tmp_path / "long.json", dataloader_num_workers=2)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "llava.train.train", *arguments, "--logging_steps", "1"]
    started = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    said = []
    for line in started.stdout:
        said.append(line)
        if "'loss'" in line:
            os.killpg(started.pid, signal.SIGTERM)
            break
    said += started.stdout.readlines()
    assert started.wait(timeout=120) == 143, "".join(said[-30:])
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    assert why_not_whole(checkpoint) is None


def test_questions_to_answer_need_data(flags):
    with pytest.raises(ValueError, match="--eval_generate 3 needs the questions of --eval_data_path"):
        train(flags(stage="projector", eval_generate=3))


@pytest.mark.parametrize(
    ("files", "processes", "stage", "message"),
    [
        ((), 3, None, None),  # without DeepSpeed any number goes on
        (("latest", "global_step1/mp_rank_00_model_states.pt"), 3, 0, None),  # nothing of it is split
        (("latest", "global_step1/bf16_zero_pp_rank_{}_mp_rank_00_optim_states.pt"), 2, 2, None),
        (
            ("latest", "global_step1/zero_pp_rank_{}_mp_rank_00_optim_states.pt"),
            1,
            2,
            r"was written by 2 process\(es\) under DeepSpeed, and this run has 1: .* --resume_from_checkpoint none",
        ),
        (("latest",), 2, None, "was written under DeepSpeed; give --deepspeed as it was then"),
        ((), 2, 2, "was written without DeepSpeed; drop --deepspeed as it was then"),
        (
            ("latest", "global_step1/zero_pp_rank_{}_mp_rank_00_model_states.pt"),
            2,
            2,
            "was written under ZeRO-3, and this run is under ZeRO-2",
        ),
        (
            ("latest", "global_step1/zero_pp_rank_{}_mp_rank_00_optim_states.pt"),
            2,
            3,
            "was written under a lower stage than ZeRO-3, and this run is under ZeRO-3",
        ),
    ],
)
def test_what_deepspeed_cannot_read_is_told_before_it_tries(files, processes, stage, message, tmp_path):
    (tmp_path / "global_step1").mkdir()
    for name in (file.format(rank) for file in files for rank in range(2)):
        (tmp_path / name).touch()
    if message is None:
        check_processes(tmp_path, processes, stage)
        return
    with pytest.raises(ValueError, match=message):
        check_processes(tmp_path, processes, stage)
