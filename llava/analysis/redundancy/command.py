"""`llava redundancy`: VisionZip's figure 2 for any vision tower and folder of images; no language model is loaded.

Example:
    llava redundancy --model-path liuhaotian/llava-v1.5-7b --vision-tower google/siglip-so400m-patch14-384
        --images photos --output-dir figures   (on one line)
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.command_line import CommandParser, add_shared, picture_formats, plain_errors, whole_number

if TYPE_CHECKING:
    from llava.analysis.redundancy.figures import TowerResult

_METHODS = ("visionzip", "uniform", "random")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser(
        "llava.analysis.redundancy",
        "How a vision tower's attention is spread over the patches of images: maps, histogram, share held by the top "
        "k, and what compression keeps of it. Figures for a paper, and the numbers as JSON.",
    )
    add_shared(
        parser, "--model-path", nargs="+", default=[],
        help="LLaVA checkpoints; only their vision tower is read. Several towers share one figure",
    )  # fmt: skip
    add_shared(parser, "--model-base")
    parser.add_argument(
        "--vision-tower",
        nargs="+",
        default=[],
        metavar="TOWER",
        help="vision towers by themselves: CLIP, SigLIP, DINOv2",
    )
    parser.add_argument("--name", nargs="+", default=[], help="of each tower, for the figures (default: its folder's)")
    parser.add_argument(
        "--images", type=Path, nargs="+", required=True, metavar="PATH", help="images, and folders of them"
    )
    parser.add_argument(
        "--limit", type=whole_number(1), default=200, help="number of images, drawn by the seed (default 200)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of that draw (default 0)")
    parser.add_argument(
        "--layers", type=_layers, default=[], metavar="L,L...",
        help="further layers: 1 is the first, -1 the last, 'all' for all; LLaVA's own (-2) is always included",
    )  # fmt: skip
    parser.add_argument(
        "--methods", nargs="+", default=list(_METHODS), metavar="METHOD",
        help=f"methods whose kept patches are measured, options behind a comma (default: {' '.join(_METHODS)})",
    )  # fmt: skip
    parser.add_argument(
        "--budgets", type=whole_number(1), nargs="+", default=[], metavar="K",
        help="tokens of a tile for that (default: six from 1/36 to 1/2 of the patches; of 576 the paper's are there)",
    )  # fmt: skip
    parser.add_argument("--show", type=whole_number(1), default=3, help="pictures in the attention maps (default 3)")
    add_shared(parser, "--device")
    add_shared(parser, "--batch-size", type=whole_number(1), default=8, help="images at a time (default 8)")
    add_shared(parser, "--output-dir,--output", type=Path, required=True, help="folder for figures and redundancy.json")
    parser.add_argument(
        "--formats", default="svg,pdf,png", help="of the figures, separated by commas (default svg,pdf,png)"
    )
    parser.add_argument("--no-picture", action="store_true", help="the numbers only, without matplotlib")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    sources = [*args.model_path, *args.vision_tower]
    if not sources:
        parser.error("name a LLaVA with --model-path, or a tower with --vision-tower")
    if args.name and len(args.name) != len(sources):
        parser.error(f"--name: {len(args.name)} names for {len(sources)} towers; those of --model-path come first")
    with plain_errors(goes_on=True):
        from llava.analysis.paper_figure import FORMATS, paper_style

        formats = picture_formats(args, FORMATS)
        images = _images(args)
        if args.output_dir.exists() and not args.output_dir.is_dir():
            raise ValueError(f"--output-dir {args.output_dir}: is a file; name a folder")
        if formats:
            with paper_style():  # a missing matplotlib is told before the work
                pass
        from llava.analysis.redundancy.parts import unfinished

        with unfinished(args.output_dir) as parts:
            results = _named([_measure(source, args, images, parts) for source in sources], args.name)
            for result in results:
                print("\n".join(_lines(result)))
            for path in _write(results, args, images, formats):
                print(f"written: {path}")
    return 0


def _measure(source: str, args: argparse.Namespace, images: Sequence[Path], parts: Path) -> TowerResult:
    import torch

    from llava.analysis.redundancy.figures import TowerResult
    from llava.analysis.redundancy.measure import budget_ladder, depths_of, measure
    from llava.model.tower_alone import load_tower
    from llava.utils import get_model_name_from_path

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    tower = load_tower(source, args.model_base if source in args.model_path else None, device=device)
    asked = range(1, tower.num_layers + 1) if args.layers == "all" else args.layers
    layers, budgets = depths_of(tower, list(asked)), budget_ladder(tower, args.methods, args.budgets)
    name = get_model_name_from_path(str(source))
    sizes = {"batch_size": args.batch_size, "show": args.show}
    measured = measure(tower, images, layers, budgets, **sizes, folder=parts, name=name)
    for problem in measured.unreadable:
        print(f"left out: {problem}", file=sys.stderr)
    return TowerResult(name, tower.tile_shape.grid, tower.tile_shape.saliency_has_cls, tower.num_layers, measured)


def _images(args: argparse.Namespace) -> list[Path]:
    """The images that are measured, in order of their names.

    Raises:
        ValueError: There is none.
    """
    from llava.images.folders import IMAGE_TYPES, image_files

    found = list(dict.fromkeys(image_files(args.images)))
    if not found:
        raise ValueError(f"--images {' '.join(map(str, args.images))}: there is no image ({', '.join(IMAGE_TYPES)})")
    if len(found) > args.limit:
        drawn = set(random.Random(args.seed).sample(range(len(found)), args.limit))
        found = [file for number, file in enumerate(found) if number in drawn]
    return found


def _named(results: Sequence[TowerResult], names: Sequence[str]) -> list[TowerResult]:
    """The results under names that differ."""
    from dataclasses import replace

    chosen = list(names) or [result.name for result in results]
    chosen = [f"{name} ({n})" if chosen.count(name) > 1 else name for n, name in enumerate(chosen, start=1)]
    return [replace(result, name=name) for result, name in zip(results, chosen, strict=True)]


def _lines(result: TowerResult) -> list[str]:
    """What is found of a tower, for people."""
    from llava.results.words import counted

    measured = result.measured
    whose = "the CLS token's attention" if result.has_cls else "attention received from all patches"
    count = len(measured.shares[measured.selected])
    lines = [f"{result.name}: {whose}, {result.grid[0]} x {result.grid[1]} patches, {counted(count, 'image')}"]
    for layer, spread in result.spreads().items():
        lines.append(
            f"  layer {layer} of {result.num_layers}: half of it on {spread.for_half.mean:.1f} patches, 90 % on "
            f"{spread.for_nearly_all.mean:.1f}; entropy {spread.entropy.mean:.2f} nats, as an even spread over "
            f"{spread.effective_patches.mean:.1f} of {spread.patches}"
        )
    for budget, mass in measured.kept_mass().items():
        lines.append(f"  {budget}: {100 * mass.mean:.1f} % of the attention is on patches that are kept as they are")
    return lines


def _write(
    results: Sequence[TowerResult], args: argparse.Namespace, images: Sequence[Path], formats: Sequence[str]
) -> list[Path]:
    """The JSON, and the figures in each format."""
    args.output_dir.mkdir(parents=True, exist_ok=True)
    file: Path = args.output_dir / "redundancy.json"
    told = {"images": [str(image) for image in images], "towers": [_told(result) for result in results]}
    file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if not formats:
        return [file]
    from llava.analysis.redundancy.figures import draw

    return [file, *draw(results, args.output_dir, formats)]


def _told(result: TowerResult) -> dict[str, Any]:
    """Shares are of 1; `top` maps k to what the k most attended patches hold."""
    measured = result.measured
    return {
        "name": result.name,
        "attention": "of the CLS token" if result.has_cls else "received from all patches",
        "grid": list(result.grid),
        "layers": result.num_layers,
        "selected_layer": measured.selected,
        "unreadable": measured.unreadable,
        "spread": {str(layer): asdict(spread) for layer, spread in result.spreads().items()},
        "kept": [
            {"compression": str(budget), "tokens": budget.num_tokens, "attention": asdict(mass)}
            for budget, mass in measured.kept_mass().items()
        ],
    }


def _layers(text: str) -> list[int] | str:
    """The type of `--layers`."""
    if text == "all":
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write numbers as 4,12,-1, or all") from None
