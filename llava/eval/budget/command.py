"""`llava budget`: which budget to take for a task or for one's own questions, by retention or by milliseconds.

Example:
    llava budget --model-path playground/tiny/model --tasks my.json --keep 0.97 --output-dir runs/budget
    llava ask --compression @runs/budget/budget.json ...
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.command_line import CommandParser, add_model_flags, add_shared, plain_errors, whole_number
from llava.eval.session import add_run_flags, check_flags

if TYPE_CHECKING:
    from llava.eval.budget.advice import Wish
    from llava.eval.compare.beginning import Begun, Offer
    from llava.eval.tasks import Task

_KEEP = 0.97
_LADDER = (1 / 2, 1 / 3, 2 / 9, 1 / 6, 1 / 9, 1 / 18)  # of a tile's patches: 192, 128 and 64 of 576 are the paper's


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser("llava.eval.budget", "Find the budget to take for tasks or for questions of your own.")
    add_model_flags(parser)
    parser.add_argument("--tasks", required=True, help="names and my.json separated by commas")
    parser.add_argument(
        "--keep",
        type=share,
        metavar="SHARE",
        help=f"of the score with all tokens that the interval's lower end must reach (default {_KEEP} without --ms)",
    )
    parser.add_argument(
        "--ms", type=milliseconds, metavar="MS", help="at most, to the first token; measured now on this machine"
    )
    parser.add_argument(
        "--methods",
        default="visionzip",
        metavar="all|NAME[,option=value]...",
        help="names separated by commas, options behind each (default visionzip)",
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--budgets", metavar="K,K...", help="tokens a tile; default: six, from half of its patches down")
    sizes.add_argument("--total", metavar="K,K...", help="tokens of an image of five tiles, as in 640,320,160")
    parser.add_argument(
        "--calibrated",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="an adaptive budget of llava calibrate, whose mean is one of --budgets; repeatable",
    )
    add_shared(parser, "--output-dir", type=Path, required=True, help="as for llava eval; budget.* go there too")
    add_run_flags(parser)
    parser.add_argument("--resamples", type=whole_number(100), default=2_000, help="of the bootstrap (default 2000)")
    parser.add_argument("--dry-run", action="store_true", help="print the ladder, and end")
    parser.add_argument("--tables-only", action="store_true", help="ask nothing: advise from existing answers")
    return parser


def share(text: str) -> float:
    """A flag's type: a number between 0 and 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, as in {_KEEP}, got {text}")
    return value


def milliseconds(text: str) -> float:
    """A flag's type: a number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    check_flags(parser, args, (), "")
    if args.ms is not None and (args.tables_only or not args.latency_repeats):
        parser.error("--ms is measured now: leave out --tables-only, and --latency-repeats 0")
    if args.tasks.strip() == "all":
        parser.error("--tasks all: name the tasks that you choose by")
    return _run(parser, args)


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    from llava.eval.budget.advice import Wish
    from llava.eval.compare.asking import ask_grid
    from llava.eval.compare.beginning import begin

    begun = begin(parser, args, lambda config: _offer(args, config), _has_a_score)
    if args.dry_run:
        return 0
    if not args.tables_only:
        status = ask_grid(parser, args, begun.place, begun.tasks, begun.grid, {}, time_again=args.ms is not None)
        if status is not None:
            return status
    wish = Wish(_KEEP if args.keep is None and args.ms is None else args.keep, args.ms)
    with plain_errors():
        for path in _write(args, begun, wish):
            print(f"written: {path}")
    return 0


def _has_a_score(task: Task) -> None:
    if task.is_judged or not task.has_answers:
        raise ValueError(f"--tasks: {task.name} has no score of its own to choose by")


def _offer(args: argparse.Namespace, config: Any) -> Offer:
    """The ladder that the flags ask for."""
    from llava.eval.compare.beginning import Offer
    from llava.eval.compare.grid import budgets_of
    from llava.eval.compare.methods import parse_methods
    from llava.model.image_rules import ImageRules

    if args.budgets is None and args.total is None:
        patches = ImageRules.from_config(config).num_patches
        budgets = [max(1, round(patches * part)) for part in _LADDER]
    else:
        budgets = budgets_of(args.budgets, args.total, config)
    return Offer(parse_methods(args.methods), budgets, seeds=1, alone=True)


def _write(args: argparse.Namespace, begun: Begun, wish: Wish) -> list[Path]:
    from llava.eval.budget.advice import advise
    from llava.eval.budget.files import to_json, to_markdown
    from llava.eval.budget.halves import climb
    from llava.eval.compare.picture import to_svg
    from llava.eval.compare.table import build_comparison
    from llava.eval.results import write_json
    from llava.eval.whole_files import write_whole

    comparison = build_comparison([args.output_dir], begun.grid, tasks={task.name for task in begun.tasks})
    ladder = climb(comparison, begun.place, args.resamples)
    advice = advise(ladder, wish)
    markdown = to_markdown(comparison, ladder, wish, advice)
    print(markdown)
    found = args.output_dir / "budget.json"
    write_json(found, to_json(comparison, ladder, wish, advice))
    wanted = None if wish.keep is None else 100 * wish.keep
    texts = {"md": markdown, "svg": to_svg(comparison, wanted)}
    return [found, *(write_whole(args.output_dir / f"budget.{name}", text) for name, text in texts.items())]
