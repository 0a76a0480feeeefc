"""Requests a second: batches of ours against the one-at-a-time loop that LLaVA's evaluation scripts run.

    python benchmarks/generate.py --json generate.json

Every request is about an image of its own, read from a JPEG file, under the same compression on both sides; every
answer has the same number of tokens. In fp32 the answers are first checked to be the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from harness import Measurement, is_h200, measure
from loops import make_inference, make_parser, one_at_a_time, read_flags, setting_of, write_pictures
from report import Cell, Goal, Report

from llava.inference import GenerationOptions, Inference, Question


def ask(inference: Inference, questions: Sequence[Question], batch: int, new_tokens: int) -> list[str]:
    """Our way; the answers in the order of the questions."""
    options = GenerationOptions(max_new_tokens=new_tokens)
    answers = sorted(inference.ask(questions, batch_size=batch, options=options), key=lambda answer: answer.index)
    return [answer.text for answer in answers]


def rows_of(found: dict[str, Measurement], requests: int, new_tokens: int) -> list[dict[str, Cell]]:
    """A row a side; the first is what the others are compared with."""
    loop = next(iter(found.values()))
    return [
        {
            "side": name,
            "requests a second": 1000 * requests / side.ms.median,
            "new tokens a second": 1000 * requests * new_tokens / side.ms.median,
            "ms a request": side.ms.median / requests,
            "times the loop": side.times_as_fast_as(loop).median,
            "spread": str(side.times_as_fast_as(loop)),
            "extra peak MiB": side.peak_mib,
        }
        for name, side in found.items()
    ]


def main() -> None:
    """Runs the command line."""
    parser = make_parser("Batched generation against LLaVA's one-at-a-time loop.", new_tokens=16)
    parser.add_argument("--requests", type=int, help="default: 64 on a CPU, 128 on a GPU")
    args = read_flags(parser)
    on_cpu, batch = args.device.type == "cpu", args.batch
    requests = args.requests or (64 if on_cpu else 128)
    if requests < 1:
        parser.error("--requests must be at least 1")

    torch.manual_seed(0)
    inference = make_inference(args.model, args.compression, args.device, args.dtype)
    with tempfile.TemporaryDirectory() as folder:
        files = write_pictures(Path(folder), requests)
        questions = [Question(f"What is at place {number}?", (file,)) for number, file in enumerate(files)]

        def ours(asked: Inference, size: int) -> Callable[[], list[str]]:
            return lambda: ask(asked, questions, size, args.new_tokens)

        sides: dict[str, Callable[[], list[str]]] = {
            "LLaVA's loop": lambda: one_at_a_time(inference, questions, args.new_tokens),
            "ours, batch 1": ours(inference, 1),
            f"ours, batch {batch}": ours(inference, batch),
        }
        if not on_cpu:  # where it pays: on a CPU a step is not bound by its launches
            parts = inference.tokenizer, inference.model, inference.image_processor
            compiled = Inference(*parts, conv_mode=inference.conv_mode, compile=True)
            sides[f"ours, batch {batch}, compiled"] = ours(compiled, batch)
        if args.dtype == "float32":
            expected = sides["LLaVA's loop"]()
            for name, work in sides.items():
                if work() != expected:
                    raise SystemExit(f"{name}: the answers are not those of LLaVA's loop")
        found = measure(sides, args.device, warmup=args.warmup, repeats=args.repeats, memory=not on_cpu)

    rows = rows_of(found, requests, args.new_tokens)
    asked = args.model, args.compression, args.dtype
    small = on_cpu and asked == ("tiny", "visionzip:15+5", "float32")
    large = is_h200(args.device) and asked == ("1.5-7b", "visionzip:54+10", "bfloat16")
    best = max(float(row["times the loop"] or 0) for row in rows[1:])
    Report(
        benchmark="generate",
        title="Batched generation against the one-at-a-time loop",
        device=args.device,
        setting=setting_of(args) | {"requests": requests},
        rows=rows,
        ratios={"throughput_ratio_vs_loop": best},
        goals=[
            Goal("CPU, tiny model: requests a second, ours / LLaVA's loop", best if small else None, at_least=2.5),
            Goal(
                "H200, 64 visual tokens: requests a second, ours / LLaVA's loop", best if large else None, at_least=10
            ),
        ],
    ).tell(args.json)


if __name__ == "__main__":
    main()
