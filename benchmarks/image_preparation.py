"""From a JPEG to pixels on one core: what LLaVA-1.5 and LLaVA-NeXT ask of the CPU before the vision tower can begin.

    python benchmarks/image_preparation.py --json image_preparation.json

The plain way calls the image processor for each view, as LLaVA does; ours gives the same pixels, which is checked.
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from harness import is_h200, measure
from PIL import Image
from prompts import TILES
from report import Cell, Goal, Report
from towers import Tower, our_way
from transformers import CLIPImageProcessorPil

from llava import CompressionConfig
from llava.images.processing import (
    divide_to_patches,
    expand2square,
    load_image,
    process_images,
    resize_and_pad_image,
    select_best_resolution,
)
from llava.images.tile_pixels import tile_pixels
from llava.images.workers import number_of_workers

SIDE, BATCH = 336, 32
PINPOINTS = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]  # (w, h), LLaVA-NeXT's
CONFIGS = {
    "LLaVA-1.5": SimpleNamespace(image_aspect_ratio="pad"),
    "LLaVA-NeXT": SimpleNamespace(image_aspect_ratio="anyres", image_grid_pinpoints=PINPOINTS),
}
NOTES = [
    f"Worker processes prepare pictures, each on a core of its own, while the model works on earlier ones: a batch of "
    f"{BATCH} waits for its pictures only if it takes less than `core ms for {BATCH}` divided by the workers.",
    "Normalising was among the largest steps of the plain way: each view went through float64 and three copies, and a "
    "tile of the right size was resized to itself. Now its 8-bit levels are looked up in a table of 256 results a "
    "channel. What is left is Pillow's decoding and bicubic resizing, which must not change for the pixels to stay "
    "LLaVA's.",
]


def make_jpeg(width: int, height: int) -> bytes:
    """A picture with edges and some noise, compressed as photographs are (quality 90)."""
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (height // 32 + 1, width // 32 + 1, 3)).repeat(32, 0).repeat(32, 1)
    levels = blocks[:height, :width] + random.normal(0, 8, (height, width, 3))
    file = io.BytesIO()
    Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def views_of(image: Image.Image, model: str, processor: Any) -> list[Image.Image]:
    """The pictures that the tower sees, before they are normalised."""
    if model == "LLaVA-1.5":
        square = expand2square(image, tuple(int(mean * 255) for mean in processor.image_mean))
        return [square.resize((SIDE, SIDE), resample=processor.resample)]
    canvas = resize_and_pad_image(image, select_best_resolution(image.size, PINPOINTS))
    return [image.resize((SIDE, SIDE)), *divide_to_patches(canvas, SIDE)]


def plain_way(jpeg: bytes, model: str, processor: Any) -> torch.Tensor:
    """As LLaVA does it: one call of the image processor a view. (views, 3, side, side)."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    if model == "LLaVA-1.5":
        views = [expand2square(image, tuple(int(mean * 255) for mean in processor.image_mean))]
    else:
        views = views_of(image, model, processor)
    return torch.stack([processor.preprocess(view, return_tensors="pt")["pixel_values"][0] for view in views])


def compare(model: str, size: tuple[int, int], args: argparse.Namespace) -> dict[str, Cell]:
    """Milliseconds of each step for one picture."""
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    jpeg, config = make_jpeg(*size), CONFIGS[model]
    image = load_image(jpeg)
    views = views_of(image, model, processor)

    def our_way() -> Any:
        return process_images([load_image(jpeg)], processor, config)[0]

    pixels = our_way()
    if not torch.equal(pixels.view(-1, 3, SIDE, SIDE), plain_way(jpeg, model, processor)):
        raise SystemExit(f"{model} {size}: the two ways give different pixels")
    sides: dict[str, Callable[[], object]] = {
        "plain": lambda: plain_way(jpeg, model, processor),
        "ours": our_way,
        "decode": lambda: load_image(jpeg),
        "resize and tile": lambda: views_of(image, model, processor),
        "normalise": lambda: tile_pixels(views, processor),
    }
    found = measure(sides, torch.device("cpu"), warmup=args.warmup, repeats=args.repeats)
    milliseconds: dict[str, Cell] = {f"{name} ms": side.ms.median for name, side in found.items()}
    ours = found["ours"].ms.median
    return {
        "model": model,
        "picture": f"{size[0]}x{size[1]}",
        "views": len(views),
        **milliseconds,
        "plain / ours": found["ours"].times_as_fast_as(found["plain"]).median,
        "pictures a second a core": 1000 / ours,
        f"core ms for {BATCH}": BATCH * ours,
    }


def tower_over_workers(core_ms: float, device: torch.device) -> float | None:
    """How long a batch of LLaVA-NeXT's tiles takes the tower, over how long preparing it takes all workers.

    Args:
        core_ms: Of the preparation on one core.
        device: Of the tower; None is told without an H200.
    """
    if not is_h200(device):
        return None
    tower = Tower.build("clip", device, torch.bfloat16)
    pixels = tower.pixels(BATCH * TILES["next"])
    budget = CompressionConfig.parse("visionzip:27+5")
    assert budget is not None
    with torch.inference_mode():
        found = measure({"tower": lambda: our_way(tower, pixels, budget)}, device, warmup=2, repeats=7)
    return found["tower"].ms.median / (core_ms / max(1, number_of_workers(None, device)))


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="From a JPEG to pixels, on one core.")
    parser.add_argument("--sizes", nargs="+", default=["640x480", "1024x768"], metavar="WxH")
    parser.add_argument(
        "--device",
        type=torch.device,
        default=torch.accelerator.current_accelerator() or torch.device("cpu"),
        help="where the tower runs; pictures are prepared on the CPU",
    )
    parser.add_argument("--dtype", choices=["float32"], default="float32", help="of the pixels")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.warmup < 0 or args.repeats < 2:
        parser.error("--warmup must be at least 0 and --repeats at least 2")
    wrong = [size for size in args.sizes if re.fullmatch(r"[1-9][0-9]*x[1-9][0-9]*", size) is None]
    if wrong:
        parser.error(f"--sizes {' '.join(wrong)}: give width x height in pixels, as 640x480")
    torch.set_num_threads(1)
    sizes = [(int(width), int(height)) for width, height in (size.split("x") for size in args.sizes)]
    rows = [compare(model, size, args) for model in CONFIGS for size in sizes]
    ratios = [float(row["plain / ours"] or 0) for row in rows]
    of_tower = tower_over_workers(float(rows[-1][f"core ms for {BATCH}"] or 0), args.device)
    speed = float(rows[-1]["pictures a second a core"] or 0)
    Report(
        benchmark="image_preparation",
        title="From a JPEG to the vision tower's pixels, on one core",
        device=torch.device("cpu"),
        setting={"side": SIDE, "pictures": " ".join(args.sizes)},
        rows=rows,
        ratios={
            "time_ratio_vs_plain": ratios[-1],
            "pictures_a_second_a_core": speed,
        },
        goals=[
            Goal("time of LLaVA's plain way / ours, the lowest of all rows", min(ratios), at_least=1),
            Goal(
                f"time of the tower / time of {number_of_workers(None, args.device) or 'its'} workers, LLaVA-NeXT, "
                f"batch {BATCH}, H200",
                of_tower,
                at_least=1,
                note="" if of_tower else "not measured: needs an H200",
            ),
        ],
        notes=NOTES,
    ).tell(args.json)


if __name__ == "__main__":
    main()
