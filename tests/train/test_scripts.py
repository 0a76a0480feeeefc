"""The launch scripts: what they hand to the training program."""

import os
import subprocess
from pathlib import Path

import pytest

from llava.train.arguments import parse_arguments

SCRIPTS = Path(__file__).parents[2] / "scripts" / "v1_5"


@pytest.fixture
def words_of(tmp_path):
    """The words with which a script calls DeepSpeed, a stand-in that writes them down."""
    (tmp_path / "deepspeed").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "deepspeed").chmod(0o755)

    def words_of(script, **environment):
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        command = ["bash", str(SCRIPTS / script)]
        done = subprocess.run(command, env={"PATH": path, **environment}, capture_output=True, text=True, check=True)
        return done.stdout.split("\n")[:-1]

    return words_of


@pytest.mark.parametrize(
    ("script", "stage", "version", "aspect", "rate"),
    [
        ("pretrain.sh", "align", "plain", "square", 1e-3),
        ("finetune.sh", "finetune", "v1", "pad", 2e-5),
        ("visionzip_tune.sh", "projector", "v1", "pad", 2e-5),
    ],
)
def test_defaults_are_llavas_under_zero2(words_of, script, stage, version, aspect, rate):
    words = words_of(script, CPU="True")
    assert words[:3] == ["--module", "llava.train.train_mem", "--deepspeed"]
    assert Path(words[3]).samefile(SCRIPTS.parent / "zero2.json")
    arguments = parse_arguments(words[4:])
    assert arguments.stage.name == stage
    assert (arguments.model.version, arguments.data.image_aspect_ratio) == (version, aspect)
    training = arguments.training
    assert (training.learning_rate, training.weight_decay, training.lr_scheduler_type) == (rate, 0, "cosine")
    assert training.save_total_limit == 1


@pytest.mark.parametrize("script", ["pretrain.sh", "finetune.sh", "visionzip_tune.sh"])
def test_the_environment_changes_them(words_of, script):
    settings = {
        "SEED": "7",
        "WEIGHT_DECAY": "0.1",
        "SCHEDULER": "linear",
        "SAVE_LIMIT": "3",
        "VERSION": "llava_llama_2",
    }
    arguments = parse_arguments(words_of(script, CPU="True", ASPECT="anyres", **settings)[4:])
    training = arguments.training
    assert 7 in (training.seed, training.data_seed)
    assert (training.weight_decay, training.lr_scheduler_type, training.save_total_limit) == (0.1, "linear", 3)
    assert (arguments.model.version, arguments.data.image_aspect_ratio) == ("llava_llama_2", "anyres")


def test_each_compression_is_tuned_in_a_folder_of_its_own(words_of):
    folders = set()
    for compression in ("visionzip:54+10", "visionzip:162+30", "random:64"):
        words = words_of("visionzip_tune.sh", COMPRESSION=compression)
        folders.add(words[words.index("--output_dir") + 1])
    assert len(folders) == 3
    assert "checkpoints/llava-v1.5-visionzip-54-10-projector" in folders
