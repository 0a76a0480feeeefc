"""Questions a second: the runner of `llava.eval` against LLaVA's one-at-a-time loop, on the shapes of GQA and POPE.

    python benchmarks/eval_throughput.py --json eval_throughput.json

Benchmarks ask many questions about each image: GQA's testdev 12,578 about 398, POPE 9,000 about 500. The files are made
here in the benchmarks' own form and read by the tasks themselves; both sides ask what the tasks ask. An answer has as
many tokens as `--new-tokens` says, two like POPE's "Yes" and its end. In fp32 the answers are first checked to be the
same. The runner's time includes reading the questions, scoring, and writing answers and results.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from harness import Measurement, is_h200, measure
from loops import make_inference, make_parser, one_at_a_time, read_flags, setting_of, write_pictures
from report import Cell, Goal, Report

from llava.eval.runner import RunSettings, evaluate
from llava.eval.tasks import Sample, Task, get_task
from llava.inference import Inference, Question

QUESTIONS_PER_IMAGE = {"gqa": 32, "pope": 18}  # 12,578 / 398 and 9,000 / 500
LOOP, RUNNER = "LLaVA's loop", "runner"
_THINGS = ("car", "dog", "chair", "cup", "tree", "bus", "person", "bottle", "dining table", "cell phone", "boat")
_GQA = (
    "Is there a {0} to the left of the {1}?",
    "What color is the {0} that is next to the {1}?",
    "Are there both a {0} and a {1} in the picture?",
    "On which side of the photo is the {0}, the left or the right?",
)


def write_gqa(root: Path, images: int) -> None:
    """GQA's file, with as many questions an image as the real one has."""
    files = write_pictures(root / "gqa" / "data" / "images", images)
    questions = {}
    for number in range(images * QUESTIONS_PER_IMAGE["gqa"]):
        first, second = _THINGS[number % len(_THINGS)], _THINGS[(number // 3) % len(_THINGS)]
        questions[f"{number:08}"] = {
            "question": _GQA[number % len(_GQA)].format(first, second),
            "answer": "yes",
            "imageId": files[number % images].stem,  # in the real file, too, an image's questions are spread
            "types": {"structural": "verify", "semantic": "rel"},
        }
    folder = root / "gqa" / "data"
    (folder / "testdev_balanced_questions.json").write_text(json.dumps(questions), encoding="utf-8")


def write_pope(root: Path, images: int) -> None:
    """POPE's three files, six questions an image in each."""
    files = write_pictures(root / "pope" / "val2014", images)
    (root / "pope" / "coco").mkdir()
    for split in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": number + 1,
                "image": file.name,
                "text": f"Is there a {_THINGS[(number + len(split)) % len(_THINGS)]} in the image?",
                "label": "yes" if number % 2 else "no",
            }
            for number, file in enumerate(file for file in files for _ in range(6))
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "pope" / "coco" / f"coco_pope_{split}.json").write_text(lines, encoding="utf-8")


def make_task(name: str, new_tokens: int) -> Task:
    """The task, with answers of a fixed length."""
    own: type[Task] = type(get_task(name))
    return type(own.__name__, (own,), {"max_new_tokens": new_tokens})()


def run(inference: Inference, task: Task, root: Path, batch: int) -> dict[str, str]:
    """The whole runner, from the task's files to its results; returns the texts."""
    with tempfile.TemporaryDirectory() as folder:
        settings = RunSettings(
            Path(folder), "random weights", data_root=root, batch_size=batch, latency_repeats=0, progress=False
        )
        evaluate(inference, [task], [inference.model.compression], settings)
        (file,) = (Path(folder) / "answers" / task.name).glob("*.jsonl")
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return {row["question_id"]: row["text"] for row in rows if "text" in row}


def loop(inference: Inference, samples: Sequence[Sample], new_tokens: int) -> dict[str, str]:
    """LLaVA's loop over the same samples."""
    questions = [Question(sample.prompt, tuple(sample.images)) for sample in samples]
    texts = one_at_a_time(inference, questions, new_tokens)
    return dict(zip((sample.sample_id for sample in samples), texts, strict=True))


def row_of(task: str, side: str, count: int, found: Measurement, slowest: Measurement) -> dict[str, Cell]:
    """One side of one task."""
    return {
        "task": task,
        "side": side,
        "questions": count,
        "questions a second": 1000 * count / found.ms.median,
        "ms a question": found.ms.median / count,
        "times the loop": found.times_as_fast_as(slowest).median,
        "spread": str(found.times_as_fast_as(slowest)),
        "extra peak MiB": found.peak_mib,
    }


def compare(name: str, inference: Inference, images: int, args: argparse.Namespace) -> list[dict[str, Cell]]:
    """All sides on one task; a row each."""
    parts = inference.tokenizer, inference.model, inference.image_processor
    on_cuda = args.device.type == "cuda"
    whole = Inference(*parts, conv_mode=inference.conv_mode, reuse_prefixes=False, compile=on_cuda)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        {"gqa": write_gqa, "pope": write_pope}[name](root, images)
        task = make_task(name, args.new_tokens)
        samples = task.load(root).samples
        sides: dict[str, Callable[[], dict[str, str]]] = {
            LOOP: lambda: loop(inference, samples, args.new_tokens),
            "runner, whole prompts": lambda: run(whole, task, root, args.batch),
            RUNNER: lambda: run(inference, task, root, args.batch),
        }
        if inference.model.dtype == torch.float32 and len({str(sorted(work().items())) for work in sides.values()}) > 1:
            raise SystemExit(f"{name}: the sides do not give the same answers")
        found = measure(sides, args.device, warmup=args.warmup, repeats=args.repeats, memory=on_cuda)
    return [row_of(name, side, len(samples), of_side, found[LOOP]) for side, of_side in found.items()]


def main() -> None:
    """Runs the command line."""
    parser = make_parser("The runner of llava.eval against LLaVA's one-at-a-time loop.", new_tokens=2)
    parser.add_argument("--images", type=int, help="of each task; default: 4 on a CPU, 16 on a GPU")
    args = read_flags(parser)
    on_cpu = args.device.type == "cpu"
    images = args.images or (4 if on_cpu else 16)
    if images < 1:
        parser.error("--images must be at least 1")

    torch.manual_seed(0)
    inference = make_inference(args.model, args.compression, args.device, args.dtype, compile=not on_cpu)
    rows = [row for name in QUESTIONS_PER_IMAGE for row in compare(name, inference, images, args)]
    asked = args.model, args.compression, args.dtype
    shown = is_h200(args.device) and asked == ("1.5-7b", "visionzip:54+10", "bfloat16")
    ratios: dict[str, float | None] = {
        f"{row['task']}_throughput_ratio_vs_loop": float(row["times the loop"] or 0)
        for row in rows
        if row["side"] == RUNNER
    }
    Report(
        benchmark="eval_throughput",
        title="The evaluation runner against the one-at-a-time loop",
        device=args.device,
        setting=setting_of(args) | {"images": images, "questions an image": QUESTIONS_PER_IMAGE},
        rows=rows,
        ratios=ratios,
        goals=[
            Goal(
                f"H200, {name.upper()}'s shape: questions a second, runner / LLaVA's loop",
                ratios[f"{name}_throughput_ratio_vs_loop"] if shown else None,
                at_least=12,
            )
            for name in QUESTIONS_PER_IMAGE
        ],
        notes=["`runner, whole prompts` shares encoded images, but computes every prompt as a whole."],
    ).tell(args.json)


if __name__ == "__main__":
    main()
