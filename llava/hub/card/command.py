"""`python -m llava.hub.card RUN`: README.md for the Hub, from what a run's files hold.

Example:
    python -m llava.hub.card checkpoints/my-run --output release --results runs/my-run/results.json \
        --repo me/llava-64 --dataset liuhaotian/LLaVA-Instruct-150K   (on one line)
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from llava.command_line import CommandParser, add_shared, plain_errors


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser("llava.hub.card", "Write README.md for the Hub.")
    parser.add_argument("run", metavar="RUN", help="folder of a training run, or of a checkpoint")
    add_shared(
        parser, "--output-dir,--output", type=Path, help="folder that is released, an export of RUN; default: RUN"
    )
    parser.add_argument("--repo", help="ORG/NAME, where it will be published")
    said = parser.add_argument_group("what the run does not know")
    said.add_argument("--license", help="identifier of the Hub's; default: what the base model's card says")
    said.add_argument("--license-name", help="with --license other")
    said.add_argument("--license-link", help="with --license other")
    said.add_argument("--base-model", action="append", default=[], metavar="ORG/NAME", help="repeatable")
    said.add_argument("--dataset", action="append", default=[], metavar="ORG/NAME", help="repeatable")
    said.add_argument("--data-note", help="what the data are, if they are not on the Hub")
    scored = parser.add_argument_group("scores")
    scored.add_argument("--results", type=Path, action="append", default=[], help="results.json; repeatable")
    scored.add_argument(
        "--vanilla-results", type=Path, action="append", default=[], help="results.json of the base model; repeatable"
    )
    scored.add_argument("--paper", metavar="TABLE", help="table1, table2...; default: the one about the base model")
    add_shared(scored, "--model-base")
    sample = parser.add_argument_group("sample", "a question that the checkpoint answers, for card and verify")
    sample.add_argument("--sample-image", type=Path)
    sample.add_argument("--sample-question")
    parser.add_argument("--overwrite", action="store_true", help="replace a README.md that somebody wrote or edited")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = make_parser().parse_args(argv)
    logging.basicConfig(format="%(message)s")
    from llava.hub.card.make_card import Measured, make_card
    from llava.hub.card.metadata import Publication, missing_fields

    with plain_errors():
        publication = Publication(
            repo=args.repo,
            license=args.license,
            license_name=args.license_name,
            license_link=args.license_link,
            base_models=args.base_model,
            datasets=args.dataset,
            data_note=args.data_note,
        )
        file = make_card(
            args.run,
            args.output_dir,
            publication,
            Measured(args.results, args.vanilla_results, args.paper, args.model_base),
            sample_image=args.sample_image,
            sample_question=args.sample_question,
            overwrite=args.overwrite,
        )
        missing = missing_fields(file.parent)
    print(f"written: {file}")
    for each in missing:
        print(f"missing, and push will refuse it: {each}")
