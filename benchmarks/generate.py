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
from loops import make_inference, make_parser, one_at_a_time, write_pictures
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
    args = parser.parse_args()
    on_cpu = args.device.type == "cpu"
    model = args.model or ("tiny" if on_cpu else "1.5-7b")
    compression = args.compression or ("visionzip:15+5" if model == "tiny" else "visionzip:54+10")
    requests, batch = args.requests or (64 if on_cpu else 128), args.batch or (32 if on_cpu else 64)
    dtype = args.dtype or ("float32" if on_cpu else "bfloat16")
    if min(requests, batch, args.new_tokens) < 1 or args.warmup < 0 or args.repeats < 2:
        parser.error("--requests, --batch and --new-tokens at least 1, --warmup at least 0, --repeats at least 2")

    torch.manual_seed(0)
    inference = make_inference(model, compression, args.device, dtype)
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
        if dtype == "float32":
            expected = sides["LLaVA's loop"]()
            for name, work in sides.items():
                if work() != expected:
                    raise SystemExit(f"{name}: the answers are not those of LLaVA's loop")
        found = measure(sides, args.device, warmup=args.warmup, repeats=args.repeats, memory=not on_cpu)

    rows = rows_of(found, requests, args.new_tokens)
    small = on_cpu and (model, compression, dtype) == ("tiny", "visionzip:15+5", "float32")
    large = is_h200(args.device) and (model, compression, dtype) == ("1.5-7b", "visionzip:54+10", "bfloat16")
    best = max(float(row["times the loop"] or 0) for row in rows[1:])
    Report(
        benchmark="generate",
        title="Batched generation against the one-at-a-time loop",
        device=args.device,
        setting={"model": model, "compression": compression, "dtype": dtype, "requests": requests, "batch": batch}
        | {"new tokens": args.new_tokens},
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
