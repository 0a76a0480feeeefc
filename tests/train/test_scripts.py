"""The launch scripts: what they hand to the training program."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llava.train.arguments import parse_arguments
from llava.train.launch import read_command

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
HARDWARE = ROOT / "llava" / "configs" / "hardware"
LAUNCHED = [  # script, stage, template, shape of images, learning rate
    ("v1_5/pretrain.sh", "align", "plain", "square", 1e-3),
    ("v1_5/finetune.sh", "finetune", "v1", "pad", 2e-5),
    ("v1_5/finetune_lora.sh", "lora", "v1", "pad", 2e-4),
    ("v1_5/finetune_qlora.sh", "qlora", "v1", "pad", 2e-4),
    ("v1_5/finetune_task.sh", "finetune", None, "pad", 2e-5),  # None: the checkpoint's own
    ("v1_5/finetune_task_lora.sh", "lora", None, "pad", 2e-4),
    ("v1_5/visionzip_tune.sh", "projector", None, "pad", 2e-5),
    ("v1_6/pretrain.sh", "align", "plain", "square", 1e-3),
    ("v1_6/finetune.sh", "finetune", "v1", "anyres", 2e-5),
    ("v1_6/finetune_lora.sh", "lora", "v1", "anyres", 2e-4),
    ("v1_6/finetune_qlora.sh", "qlora", "v1", "anyres", 2e-4),
    ("v1_6/visionzip_tune.sh", "projector", None, "anyres", 2e-5),
]


PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def words_of(tmp_path):
    """The words with which a script calls a launcher, as it shows them."""

    def words_of(script, *flags, **environment):
        command = ["bash", str(SCRIPTS / script), *flags]
        environment = {"PATH": PATH, "DRY_RUN": "1", **environment}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return shlex.split(done.stdout)

    return words_of


def parse(words, monkeypatch):
    """The arguments of the words after the module's name, without the machine, which has DeepSpeed."""
    monkeypatch.chdir(ROOT)
    at = words.index("--recipe")
    assert (HARDWARE / f"{words[at + 2]}.yaml").is_file()
    return parse_arguments([*words[at : at + 2], *words[at + 3 :], "--use_cpu", "True"])


@pytest.mark.parametrize("file", sorted(SCRIPTS.rglob("*.s[hb]*")), ids=lambda file: file.name)
def test_scripts_are_bash(file):
    subprocess.run(["bash", "-n", str(file)], check=True)
    assert "\nset -euo pipefail\n" in file.read_text()
    assert file.suffix == ".sbatch" or os.access(file, os.X_OK)


def test_every_launch_script_is_tested():
    found = {str(file.relative_to(SCRIPTS)) for file in SCRIPTS.glob("v1_*/*.sh")}
    assert found == {script for script, *_ in LAUNCHED}


@pytest.mark.parametrize(("script", "stage", "version", "aspect", "rate"), LAUNCHED)
def test_defaults_are_llavas_under_zero2(words_of, monkeypatch, script, stage, version, aspect, rate):
    words = words_of(script)
    assert words[:4] == ["deepspeed", "--module", "llava.train.train_mem", "--recipe"]
    assert words[5:] == ["8x80gb"]
    assert "deepspeed: zero2\n" in (HARDWARE / "8x80gb.yaml").read_text()
    arguments = parse(words, monkeypatch)
    assert arguments.stage.name == stage
    assert (arguments.model.version, arguments.data.image_aspect_ratio) == (version, aspect)
    training = arguments.training
    assert (training.learning_rate, training.weight_decay, training.lr_scheduler_type) == (rate, 0, "cosine")
    assert training.save_total_limit == 1
    assert arguments.to_dict()["recipe"] == [words[4]]


@pytest.mark.parametrize("script", ["v1_5/pretrain.sh", "v1_5/finetune.sh", "v1_5/visionzip_tune.sh"])
def test_the_environment_changes_them(words_of, monkeypatch, script):
    settings = {
        "SEED": "7",
        "WEIGHT_DECAY": "0.1",
        "SCHEDULER": "linear",
        "SAVE_LIMIT": "3",
        "VERSION": "llava_llama_2",
    }
    settings |= {"LR": "", "ASPECT": "anyres", "DATA": "my data.json", "BF16": "False"}
    words = words_of(script, "--weight_decay", "0.2", **settings)
    assert "" not in words
    arguments = parse(words, monkeypatch)
    training = arguments.training
    assert (training.seed, training.data_seed) == (7, 7)
    assert (training.weight_decay, training.lr_scheduler_type, training.save_total_limit) == (0.2, "linear", 3)
    assert (arguments.model.version, arguments.data.image_aspect_ratio) == ("llava_llama_2", "anyres")
    assert arguments.data.data_path == "my data.json" and not training.bf16


@pytest.mark.parametrize(
    ("launcher", "expected", "machine"),
    [
        ("deepspeed", ["deepspeed", "--hostfile", "hosts", "--module", "llava.train.train_mem"], "8x80gb"),
        ("torchrun", ["torchrun", "--hostfile", "hosts", "-m", "llava.train.train_mem"], "8x80gb"),
        ("python", ["python", "--hostfile", "hosts", "-m", "llava.train.train_mem"], "1x80gb"),
    ],
)
def test_each_launcher_is_called_its_way(words_of, launcher, expected, machine, tmp_path):
    words = words_of("v1_5/finetune.sh", LAUNCHER=launcher, LAUNCHER_ARGS="--hostfile hosts")
    recipe = "llava-v1.5-7b-finetune"
    assert words == [*expected, "--recipe", recipe, machine]
    mine = tmp_path / "mine.yaml"
    mine.write_text("seed: 1\n")
    words = words_of("v1_5/finetune.sh", LAUNCHER=launcher, HARDWARE=str(mine))
    assert words[-2:] == [recipe, str(mine)]


def test_an_unknown_launcher_and_a_forgotten_recipe_are_told(tmp_path):
    for variables, message in (
        ({"RECIPE": "r", "LAUNCHER": "mpi"}, "LAUNCHER must be deepspeed, torchrun or python, not 'mpi'"),
        ({}, "RECIPE: name a file of llava/configs/recipes"),
        ({"RECIPE": "llava-v1.5-7b-fintune"}, "there is no such file, and none of that name in llava/configs; did you"),
        ({"RECIPE": "llava-v1.5-7b-lora", "HARDWARE": "9x99gb"}, "--hardware: 9x99gb: there is no such file"),
        ({"RECIPE": "llava-v1.5-7b-lora", "LAUNCHER_ARGS": "--x 'y"}, 'LAUNCHER_ARGS: "--x \'y": No closing quotation'),
    ):
        command = ["bash", str(SCRIPTS / "train.sh")]
        environment = {"PATH": PATH, **variables}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and message in done.stderr
        assert done.stderr.count("\n") == 1


def test_models_and_budgets_are_chosen_by_name(words_of):
    recipes = {
        ("v1_5/visionzip_tune.sh", "SIZE=13b", "TOKENS=192"): "llava-v1.5-13b-visionzip-192",
        ("v1_5/finetune.sh", "TOKENS=128"): "llava-v1.5-7b-finetune-visionzip-128",
        ("v1_5/finetune_task_lora.sh", "SIZE=13b"): "llava-v1.5-13b-lora-task",
        ("v1_6/visionzip_tune.sh", "MODEL=mistral-7b"): "llava-v1.6-mistral-7b-visionzip-320",
        ("v1_6/finetune.sh", "TOKENS=640"): "llava-v1.6-vicuna-7b-finetune-visionzip-640",
        ("v1_6/pretrain.sh", "MODEL=vicuna-13b"): "llava-v1.6-vicuna-13b-align",
        ("train.sh", "RECIPE=llava-v1.5-7b-finetune-task"): "llava-v1.5-7b-finetune-task",
    }
    for (script, *settings), recipe in recipes.items():
        words = words_of(script, **dict(setting.split("=") for setting in settings))
        assert words[words.index("--recipe") + 1] == recipe
        assert (HARDWARE.parent / "recipes" / f"{recipe}.yaml").is_file()
    file = f"configs/recipes/{recipe}.yaml"  # the names that were files' before there were names
    assert file in words_of("train.sh", RECIPE=file)


def test_each_compression_is_trained_in_a_folder_of_its_own(words_of, monkeypatch):
    folders = [parse(words_of("v1_5/visionzip_tune.sh"), monkeypatch).training.output_dir]
    for script, compression in (
        ("v1_5/visionzip_tune.sh", "visionzip:162+30"),
        ("v1_5/visionzip_tune.sh", "random:64"),
        ("v1_5/finetune.sh", "random:64"),
        ("v1_6/visionzip_tune.sh", "random:64"),
    ):
        folders.append(parse(words_of(script, COMPRESSION=compression), monkeypatch).training.output_dir)
    assert folders == [
        "checkpoints/llava-v1.5-7b-visionzip-64",
        "checkpoints/llava-v1.5-7b-visionzip-162-30",
        "checkpoints/llava-v1.5-7b-random-64",
        "checkpoints/llava-v1.5-7b-finetune-random-64",
        "checkpoints/llava-v1.6-vicuna-7b-random-64",
    ]
    assert parse(words_of("v1_5/finetune.sh", COMPRESSION="x:1", OUTPUT="o"), monkeypatch).training.output_dir == "o"


def test_variables_of_tuning_reach_the_run_in_a_folder_of_its_own(words_of, monkeypatch):
    given = {
        "COMPRESSION_SCHEDULE": "steps",
        "COMPRESSION_START": "192",
        "COMPRESSION_SHARE": "0.25",
        "COMPRESSION_DRAW": "visionzip:54+10,visionzip:108+20",
        "DISTILL_FROM": "none",
        "DISTILL_WEIGHT": "0.5",
        "DISTILL_TEMPERATURE": "2.0",
        "DISTILL_TEACHER": "current",
    }
    training = parse(words_of("v1_5/visionzip_tune.sh", **given), monkeypatch).training
    assert {name: str(value) for name, value in training.tuning_flags().items()} == {
        name.lower(): value for name, value in given.items()
    }
    folder = parse(words_of("v1_5/visionzip_tune.sh", COMPRESSION_DRAW="32-128"), monkeypatch).training.output_dir
    assert folder == "checkpoints/llava-v1.5-7b-visionzip-64-compression_draw-32-128"


def test_a_dry_run_shows_the_command(tmp_path):
    environment = {"PATH": PATH, "DRY_RUN": "1", "LR": "1e-4", "DATA": "my data/a.json"}
    command = ["bash", str(SCRIPTS / "v1_5" / "finetune_lora.sh"), "--max_steps", "3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("deepspeed --module llava.train.train_mem --recipe ")
    assert done.stdout.endswith(" --learning_rate 1e-4 --max_steps 3\n")
    words = shlex.split(done.stdout)
    assert words[words.index("--data_path") + 1] == "my data/a.json"


def test_a_dry_run_of_zero_is_none():
    words = ["--variables", "--recipe", "llava-v1.5-7b-lora"]
    assert [read_command(words, {"DRY_RUN": value})[1] for value in ("1", "0", "")] == [True, False, False]


def test_the_evaluation_takes_budgets_between_any_spaces_and_shows_words_quoted(words_of):
    flags = ["--compression", "none", "--compression", "visionzip:54+10|x:1"]
    budgets = " none \n  visionzip:54+10|x:1 "
    words = words_of("eval.sh", "pope", CKPT="my ckpt|x", OUTPUT="o", COMPRESSION=budgets)
    start = ["python", "-m", "llava.eval", "--model-path", "my ckpt|x", "--tasks", "pope"]
    assert words == [*start, *flags, "--output-dir", "o"]
    assert words_of("eval.sh", "pope", CKPT="my ckpt|x", OUTPUT="o") == [*start, "--output-dir", "o"]


@pytest.mark.parametrize(("value", "is_dry"), [("0", False), ("", False), ("1", True)])
@pytest.mark.parametrize(("script", "words"), [("eval.sh", ["pope"]), ("release.sh", ["my/run", "me/name"])])
def test_a_dry_run_of_zero_runs(script, words, value, is_dry, tmp_path):
    """Every `python` notes what it is called with."""
    (tmp_path / "python").write_text('#!/bin/sh\necho "$*" >> "$CALLS"\n')
    (tmp_path / "python").chmod(0o755)
    calls = tmp_path / "calls"
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "CALLS": str(calls), "DRY_RUN": value}
    environment |= {"CKPT": "x", "TASKS": "" if script == "release.sh" else "pope"}
    subprocess.run(["bash", str(SCRIPTS / script), *words], env=environment, capture_output=True, check=True)
    called = calls.read_text() if calls.exists() else ""
    assert ("--dry-run" in called or not called) == is_dry


RECIPE = "llava-v1.5-7b-finetune"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "{tmp}/broken.yaml"], r"broken\.yaml:2: seed stands twice"),
        (["--recipe", RECIPE, "--hardware", "{tmp}/broken.yaml"], r"broken\.yaml:2: seed stands twice"),
        (["--recipe", RECIPE, "--plugin", "{tmp}/gone.py"], r"error: plug-in .*gone\.py: there is no such file"),
        (["--recipe", "{tmp}/plugged.yaml"], r"error: plug-in .*lost\.py: there is no such file"),
        ([], r"--model_name_or_path must be given: .* as in --recipe llava"),
        (["--hardware", "8x80gb", "--seed", "1"], r"--model_name_or_path must be given"),
        (
            ["--recipe", RECIPE, "--hardware", "nope"],
            r"--hardware: nope: .* names are those .*hardware$",
        ),
        (["--recipe", RECIPE, "--hardware", RECIPE], rf"--hardware: {RECIPE} is a recipe; give it with --recipe"),
        (["--recipe", RECIPE, "--hardware", "{tmp}/mine.yaml"], r"--hardware: .*mine\.yaml is a recipe; give it with"),
        (["--recipe", RECIPE, "--deepspeed", "zero4"], r"--deepspeed: zero4: there is no such file, .*zero"),
        (["--model-path", "m", "--deepspeed={tmp}/ds.json"], r"--deepspeed .*ds\.json is not valid JSON"),
        (["--recipe", "{tmp}/with_ds.yaml", "--launcher", "python"], r"--deepspeed: gone: there is no such file"),
        (["--recipe", "8x24gb"], r"--recipe: 8x24gb is a machine; give it with --hardware"),
    ],
)
def test_a_mistake_is_told_before_the_launcher_starts(words, message, tmp_path):
    (tmp_path / "broken.yaml").write_text("seed: 1\nseed: 2\n")
    (tmp_path / "plugged.yaml").write_text("model_name_or_path: m\nplugin: lost.py\n")
    (tmp_path / "mine.yaml").write_text(f"extends: {RECIPE}\n")
    (tmp_path / "with_ds.yaml").write_text("model_name_or_path: m\ndeepspeed: gone\n")
    (tmp_path / "ds.json").write_text("{")
    with pytest.raises((ValueError, SystemExit), match=message):
        read_command([word.replace("{tmp}", str(tmp_path)) for word in words], {})


def test_the_launch_itself_imports_nothing_heavy():
    code = "import sys; from llava.train.launch import read_command; "
    code += f"read_command(['--recipe', {RECIPE!r}], {{}}); assert not {{'torch', 'transformers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("flag", ["--model_name_or_path", "--model-name-or-path", "--model-path"])
def test_a_model_will_do_without_a_recipe(flag):
    words = ["deepspeed", "--module", "llava.train.train_mem", f"{flag}=m"]
    assert read_command([f"{flag}=m"], {}) == (words, False)


SRUN = """#!/bin/sh
printf "%s\\n" "$1" >> "$CALLS"
shift
SLURM_PROCID=9 SLURM_LOCALID=1 SLURM_NTASKS=16 "$@" || exit $?
exit $SRUN_STATUS
"""
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then printf "node7\\nnode8\\n"; else echo "scontrol $*" >> "$CALLS"; fi
"""
PYTHON = """#!/bin/sh
echo "python $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $LAUNCHER $RECIPE $HARDWARE $*" >> "$CALLS"
"""


@pytest.mark.parametrize(("status", "is_queued_again"), [(0, False), (1, False), (138, True), (143, False)])
def test_a_slurm_job_starts_a_process_a_gpu_and_is_queued_again_after_usr1(status, is_queued_again, tmp_path):
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python", PYTHON)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls"
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(calls),
        "SRUN_STATUS": str(status),
        "SLURM_JOB_ID": "60123",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "RECIPE": "llava-v1.5-7b-visionzip-64",
    }
    command = ["bash", "scripts/slurm/train.sbatch", "--save_steps", "10"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    words = f"python {environment['RECIPE']} 8x80gb -m llava.train.launch --variables --save_steps 10"
    expected = ["--wait=300", f"python 9 1 16 node7 20123 {words}", "scontrol requeue 60123"]
    assert calls.read_text().splitlines() == (expected if is_queued_again else expected[:-1])
