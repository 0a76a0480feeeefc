"""The benchmarks' bash scripts: what they hand to the runner, and that they run."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llava.eval.command import make_parser
from llava.eval.judge import command as judge
from llava.eval.tasks import available_tasks
from tests.eval import layout
from tests.eval.judge_server import judging

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("v1_?/eval/*.sh"))
DEFAULTS = {"v1_5": "liuhaotian/llava-v1.5-7b", "v1_6": "liuhaotian/llava-v1.6-vicuna-7b"}
BUDGETS = ["none", "visionzip:54+10"]


def run(script: Path, *flags: str, **variables: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "HOME", "TMP"))}
    environment = kept | {"PATH": path, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(["bash", str(script), *flags], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_benchmark_has_a_script() -> None:
    names = {version: {path.stem for path in SCRIPTS if path.parts[-3] == version} for version in DEFAULTS}
    assert names["v1_5"] == names["v1_6"] and len(names["v1_5"]) == 13
    for name in ("gqa", "mmbench", "mme", "pope", "sqa", "vqav2", "textvqa", "mmmu", "seed", "mmvet", "llavabench"):
        assert name in names["v1_5"], name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: "/".join(path.parts[-3::2]))
def test_script_hands_on_its_variables_and_flags(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert len(script.read_text().splitlines()) == 3 and os.access(script, os.X_OK)  # a link, of one line
    words = shlex.split(run(script, DRY_RUN="1"))
    assert words[:3] == ["python", "-m", "llava.eval"]
    args = make_parser().parse_args(words[3:])
    assert args.model_path == DEFAULTS[script.parts[-3]] and args.tasks in available_tasks()
    assert args.compression is None and args.output_dir == Path("runs/eval") / Path(args.model_path).name


def test_variables_flags_and_gpus() -> None:
    script = ROOT / "scripts" / "v1_5" / "eval" / "pope.sh"
    more = {"CKPT": "my ckpt", "COMPRESSION": " ".join(BUDGETS), "OUTPUT": "out", "DATA": "data", "LIMIT": "5"}
    more |= {
        "CUDA_VISIBLE_DEVICES": "0,3,5",
        "DTYPE": "float16",
        "BASE": "base",
        "CONV_MODE": "vicuna_v1",
        "BATCH": "4",
    }
    printed = run(script, "--latency-repeats", "0", DRY_RUN="1", **more).replace("my ckpt", "'my ckpt'")
    words = shlex.split(printed)
    assert words[:6] == ["torchrun", "--standalone", "--nproc_per_node", "3", "-m", "llava.eval"]
    args = make_parser().parse_args(words[6:])
    assert (args.model_path, args.tasks, args.compression) == ("my ckpt", "pope", BUDGETS)
    assert (args.output_dir, args.data_root, args.limit, args.batch_size) == (Path("out"), Path("data"), 5, 4)
    assert (args.dtype, args.model_base, args.conv_mode, args.latency_repeats) == ("float16", "base", "vicuna_v1", 0)
    assert "nproc_per_node 2 " in run(script, DRY_RUN="1", NPROC="2")


def test_the_task_is_a_word_or_a_variable_which_counts_more() -> None:
    script = ROOT / "scripts" / "eval.sh"
    shown = {
        run(script, "gqa,pope", "--limit", "3", DRY_RUN="1", CKPT="x"): "gqa,pope",
        run(script, "--limit", "3", DRY_RUN="1", CKPT="x", TASKS="gqa"): "gqa",
        run(script, "mmmu_val", "--limit", "3", DRY_RUN="1", CKPT="x", TASKS="mmmu_val_official"): "mmmu_val_official",
    }
    assert len(shown) == 3
    for line, tasks in shown.items():
        args = make_parser().parse_args(shlex.split(line)[3:])
        assert (args.tasks, args.limit) == (tasks, 3)


def test_the_judge_is_asked_where_there_is_one() -> None:
    script = ROOT / "scripts" / "v1_6" / "eval" / "mmvet.sh"
    assert "llava.eval.judge" not in run(script, DRY_RUN="1")
    more = {"JUDGE_URL": "http://host/v1", "JUDGE_MODEL": "gpt", "JUDGE_RUNS": "3", "DATA": "data", "OUTPUT": "out"}
    words = shlex.split(run(script, DRY_RUN="1", **more).splitlines()[-1])
    args = judge.make_parser().parse_args(words[3:])
    assert (args.output_dir, args.tasks, args.judge_runs, args.data_root) == (Path("out"), None, 3, Path("data"))
    both = run(ROOT / "scripts" / "eval.sh", DRY_RUN="1", CKPT="ckpt", TASKS="pope,mmvet", **more).splitlines()
    assert len(both) == 2 and "llava.eval.judge" in both[1]


@pytest.mark.slow
def test_pope_runs_and_goes_on(oracle_dir: Path, tmp_path: Path) -> None:
    rows = [{"question_id": n, "image": f"{n % 2}.png", "text": f"Is there a {n}?", "label": "yes"} for n in range(4)]
    layout.write_pope(tmp_path / "data", rows)
    images = tmp_path / "data" / "pope" / "val2014"
    images.mkdir()
    for number, colour in enumerate(("red", "blue")):
        (images / f"{number}.png").write_bytes(layout.png(colour))
    script = ROOT / "scripts" / "v1_5" / "eval" / "pope.sh"
    more = {"CKPT": str(oracle_dir / "tiny-llava-v1.5"), "COMPRESSION": " ".join(BUDGETS)}
    more |= {"DATA": str(tmp_path / "data"), "OUTPUT": str(tmp_path / "out")}
    run(script, "--latency-repeats", "0", **more)
    results = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [(row["compression"], row["n"], row["main_score"]) for row in results] == [(b, 12, "f1") for b in BUDGETS]


@pytest.mark.slow
def test_mmvet_runs_in_two_processes_and_is_judged(oracle_dir: Path, tmp_path: Path) -> None:
    row = {"answer": "red", "capability": ["rec"]}
    rows = [row | {"question": f"What is {n}?", "imagename": f"{n}.png"} for n in range(3)]
    layout.write_mmvet(tmp_path / "data", rows)
    images = tmp_path / "data" / "mm-vet" / "images"
    images.mkdir()
    for number in range(3):
        (images / f"{number}.png").write_bytes(layout.png())
    script = ROOT / "scripts" / "v1_5" / "eval" / "mmvet.sh"
    with judging() as server:
        more = {"CKPT": str(oracle_dir / "tiny-llava-v1.5"), "COMPRESSION": "visionzip:54+10", "NPROC": "2"}
        more |= {"DATA": str(tmp_path / "data"), "OUTPUT": str(tmp_path / "out")}
        more |= {"JUDGE_URL": server.url, "JUDGE_MODEL": "gpt-judge", "LLAVA_JUDGE_KEY": "secret"}
        out = run(script, "--latency-repeats", "0", **more)
    [row] = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert row["score"] == 50.0 and row["judge"]["model"] == "gpt-judge" and len(server.requests) == 3
    assert "mmvet visionzip:54+10: 50.0" in out
