"""`llava cost`: operations, KV memory and the least time of a prompt under several budgets; no weights are read.

Example:
    llava cost --model-path llava-1.5-7b --gpu A100 --gpu H100 --picture cost.svg
    llava cost --model-path llava-next-7b llava-next-13b --tokens 2880 640 160 --markdown
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.command_line import CommandParser, add_shared, plain_errors, whole_number
from llava.model.device_peaks import DEVICE_PEAKS, DevicePeak, device_peak

if TYPE_CHECKING:
    from llava.analysis.cost.prompt_cost import Budget, Workload
    from llava.analysis.cost.report import ModelCost

_OWN_GPU = re.compile(r"(?P<name>[^=]+)=(?P<tflops>\d+(\.\d+)?)/(?P<terabytes>\d+(\.\d+)?)")
_CURVE_POINTS = 48
_LARGEST_SIDE = 100_000


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser(
        "llava.analysis.cost",
        "Count what a prompt costs under several budgets, from a config alone: no weights are read.",
    )
    add_shared(
        parser, "--model-path", nargs="+", required=True,
        help="llava-1.5-7b, llava-next-13b, llava-onevision-7b... by their sizes alone; or a checkpoint, of which "
        "config.json is read",
    )  # fmt: skip
    add_shared(parser, "--model-base")
    add_shared(
        parser, "--compression", action="append", default=None,
        help="'visionzip:54+10', 'random:64', 'none'...; repeatable (default: none and the paper's three)",
    )  # fmt: skip
    parser.add_argument(
        "--tokens",
        type=whole_number(1),
        nargs="+",
        default=[],
        metavar="K",
        help="or numbers of visual tokens of an image",
    )
    parser.add_argument(
        "--image-size",
        type=_size,
        metavar="WxH",
        help="of an image (default: one tile; 2 x 2 tiles where images are tiled)",
    )
    parser.add_argument("--images", type=whole_number(1), default=1, help="of a prompt (default 1)")
    parser.add_argument("--text-tokens", type=whole_number(1), help="of a prompt (default: POPE's 62)")
    add_shared(parser, "--batch-size", type=whole_number(1), default=1, help="prompts at a time (default 1)")
    parser.add_argument(
        "--bits",
        type=int,
        choices=(16, 8, 4),
        default=16,
        help="of the weights of the language model's layers (default 16)",
    )
    parser.add_argument(
        "--gpu", type=_gpu, action="append", metavar="NAME",
        help="whose peaks give least times, such as A100 or H200; or NAME=TFLOPS/TBPS of your own; repeatable "
        "(default A100)",
    )  # fmt: skip
    parser.add_argument(
        "--list-gpus", action=_ListGpus, nargs=0, help="print the GPUs that are known, with the sources"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, in operations, bytes and milliseconds")
    form.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw it too: .svg, .pdf or .png (needs matplotlib)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = make_parser().parse_args(arguments)
    devices = tuple(dict.fromkeys(args.gpu or [device_peak("A100")]))
    with plain_errors():
        from llava.analysis.cost.report import to_json, to_text
        from llava.analysis.paper_figure import check_picture
        from llava.results.tables import markdown_table, plain_table

        if args.picture is not None:
            check_picture(args.picture)
        found = [_read(name, args, devices) for name in args.model_path]
        models = [model for model, _ in found]
        if args.json:
            print(json.dumps(to_json(models, devices), indent=2))
        else:
            table = markdown_table if args.markdown else plain_table
            print("\n\n\n".join(to_text(model, devices, table) for model in models))
        if args.picture is not None:
            from llava.analysis.cost.picture import draw_costs

            written = draw_costs(models, [curve for _, curve in found], args.picture)
            print(f"written: {written}", file=sys.stderr if args.json else sys.stdout)
    return 0


def _read(name: str, args: argparse.Namespace, devices: tuple[DevicePeak, ...]) -> tuple[ModelCost, list[Any]]:
    """What is told of a model, and the curve through it; only configs are read."""
    from llava.analysis.cost.prompt_cost import Workload, count_weights, paper_ladder, prompt_costs, usual_image_size
    from llava.analysis.cost.report import ModelCost
    from llava.model.checkpoints.config_of import config_of
    from llava.model.configuration import CompressionConfig
    from llava.model.published_models import PUBLISHED_MODELS, published_model
    from llava.utils import get_model_name_from_path

    known = None if Path(name).is_dir() else published_model(name)
    if known is None and "/" not in name and not Path(name).exists():
        names = ", ".join(PUBLISHED_MODELS)
        raise ValueError(f"--model-path {name}: there is no such folder; known without one are {names}")
    config = config_of(name, args.model_base) if known is None else known.config()
    asked: list[Budget] = [CompressionConfig.parse(text) for text in args.compression or ()] + args.tokens
    size = args.image_size or usual_image_size(config)
    text = {} if args.text_tokens is None else {"text_tokens": args.text_tokens}
    work = Workload(size, images=args.images, batch=args.batch_size, bits=args.bits, **text)
    budgets = list(dict.fromkeys(asked)) or paper_ladder(config)
    whole, *costs = prompt_costs(config, [None, *budgets], work, devices)
    curve = [] if args.picture is None else prompt_costs(config, _rising(config, work), work, devices)
    title = known.name if known is not None else get_model_name_from_path(name)
    return ModelCost(title, count_weights(config), work, tuple(costs), whole), curve


def _rising(config: Any, work: Workload) -> list[Budget]:
    """Numbers of tokens of an image, from few to all."""
    from llava.model.image_rules import ImageRules

    rules = ImageRules.from_config(config)
    most = rules.num_tokens(work.image_size, None, beside_others=work.images > 1)
    return [*sorted({max(1, round(most * place / _CURVE_POINTS)) for place in range(_CURVE_POINTS + 1)})]


def _size(text: str) -> tuple[int, int]:
    """The type of `--image-size`."""
    parts = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text, re.ASCII)
    if parts is None or not all(1 <= int(side) <= _LARGEST_SIDE for side in parts.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size in pixels; write width x height as 672x672")
    return int(parts[1]), int(parts[2])


def _gpu(text: str) -> DevicePeak:
    """The type of `--gpu`."""
    own = _OWN_GPU.fullmatch(text)
    if own is not None:
        peak = DevicePeak(own["name"], float(own["tflops"]), float(own["terabytes"]), "as given")
        if peak.tflops > 0 and peak.terabytes > 0:
            return peak
    found = None if own is not None else device_peak(text)
    if found is None:
        names = ", ".join(peak.name for peak in DEVICE_PEAKS)
        raise argparse.ArgumentTypeError(f"{text!r} is not known; there are {names}; or give NAME=TFLOPS/TBPS")
    return found


class _ListGpus(argparse.Action):
    """Prints the table of GPUs and ends; the other flags need not be there."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        rows = [["--gpu", "TFLOP/s", "TB/s", "source"]]
        rows += [[peak.name, f"{peak.tflops:g}", f"{peak.terabytes:g}", peak.sheet] for peak in DEVICE_PEAKS]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        print("\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows))
        parser.exit()
