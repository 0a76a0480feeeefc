"""`python -m llava.data.validate`: what of a data file training would refuse or skip, and why.

Exit status: 0 if every entry can be trained on, 1 if one cannot, 2 if the command itself is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from llava.command_line import CommandParser, add_shared, compression_option, whole_number
from llava.constants import DEFAULT_MAX_PIXELS
from llava.data.open_records import open_entries
from llava.data.subset import content_hash
from llava.data.tables.open_table import is_table
from llava.data.templates import PromptTemplate, get_template
from llava.data.validation_report import Findings, summary
from llava.prompts.own_template import conv_mode_for

if TYPE_CHECKING:
    from llava.data.checks import Checks
    from llava.data.model_rules import ModelRules

_BAD_DATA, _BAD_COMMAND = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Validates a data file.

    Returns:
        The exit status.
    """
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # there is a process for every core
    findings = Findings(arguments.model_max_length)
    try:
        rules = _rules(arguments)
        if arguments.version is None:
            arguments.version = "v1" if rules.config is None else conv_mode_for(rules.config, rules.tokenizer)
        template = get_template(arguments.version)
        if arguments.report is not None:
            arguments.report.parent.mkdir(parents=True, exist_ok=True)
            if arguments.report.resolve() == arguments.data_path.resolve():
                raise ValueError(f"--report {arguments.report} would overwrite the data; choose another name")
            arguments.report.open("a").close()  # fails before the work, not after it
        entries, place = _read(arguments, findings)
        checks = _make_checks(arguments, rules, entries, template)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _BAD_COMMAND
    _check(checks, place, findings, arguments.workers)
    sha256 = content_hash(arguments.data_path, entries)
    report = findings.report(arguments.data_path, sha256, _options(arguments))
    if arguments.report is not None:
        arguments.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(summary(report))
    return _BAD_DATA if report["num_bad"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("llava.data.validate", __doc__)
    add = parser.add_argument
    add("--data-path", type=Path, required=True, help="LLaVA's JSON (or JSONL), or a table, as docs/data.md says")
    add("--data-cache", type=Path, help="folder for an Arrow copy of parquet files; default: they are read in place")
    add("--image-folder", type=Path, help="folder that image paths are relative to")
    model = parser.add_mutually_exclusive_group()
    add_shared(model, "--model-path", help="LLaVA checkpoint: its tokenizer and token counts; no weights are loaded")
    model.add_argument("--tokenizer", help="tokenizer of a language model that becomes a LLaVA")
    add(
        "--visual-tokens",
        type=whole_number(0),
        default=576,
        help="with --tokenizer: of an image (default: %(default)s)",
    )
    add("--image-aspect-ratio", choices=["square", "pad", "anyres"], help="default: the checkpoint's")
    add_shared(
        parser,
        "--conv-mode,--version",
        dest="version",
        help="conversation template, as in training (default: the model's own; v1 without --model-path)",
    )
    add(
        "--model-max-length",
        type=whole_number(1),
        default=2048,
        help="tokens a sample is cut to (default: %(default)s)",
    )
    add("--max-pixels", type=whole_number(1), default=DEFAULT_MAX_PIXELS, help="of an image (default: %(default)s)")
    workers = os.cpu_count() or 1
    add("--workers", type=whole_number(0), default=workers, help="processes; 0: this one alone (default: %(default)s)")
    add("--report", type=Path, help="JSON with everything that was found")
    add_shared(parser, "--compression")
    return parser


def _rules(arguments: argparse.Namespace) -> ModelRules:
    """How the model that the flags name reads text and images.

    Raises:
        ValueError: The flags do not fit the checkpoint.
    """
    from llava.data.model_rules import ModelRules, rules_of_model, rules_of_tokenizer
    from llava.model.configuration import CompressionConfig
    from llava.model.stages import check_methods

    if hasattr(arguments, "compression"):
        budget = CompressionConfig.parse(arguments.compression)
        if budget is not None:
            check_methods(budget)  # there are such methods; whether the model fits them, the checkpoint says
    if arguments.model_path is not None:
        options = compression_option(arguments) | {"image_aspect_ratio": arguments.image_aspect_ratio}
        return rules_of_model(arguments.model_path, **options)
    if arguments.tokenizer is not None:
        return rules_of_tokenizer(arguments.tokenizer, arguments.visual_tokens)
    return ModelRules(None, lambda sizes: [arguments.visual_tokens] * len(sizes))


def _make_checks(
    arguments: argparse.Namespace, rules: ModelRules, entries: Sequence[Any], template: PromptTemplate
) -> Checks:
    """The checks that the flags ask for.

    Raises:
        ValueError: The flags do not fit the data.
    """
    from llava.data.checks import Checks
    from llava.data.dataset import LlavaDataset

    if arguments.image_folder is not None and not arguments.image_folder.is_dir():
        raise FileNotFoundError(f"--image-folder {arguments.image_folder} is not a folder")
    dataset = LlavaDataset(
        entries if is_table(arguments.data_path) else [entry if isinstance(entry, dict) else {} for entry in entries],
        tokenizer=rules.tokenizer,
        template=template,
        image_processor=None,
        image_config=rules.config,
        image_folder=arguments.image_folder,
        count_visual_tokens=lambda sizes: rules.count_visual_tokens(sizes),
        max_length=arguments.model_max_length,
        max_pixels=arguments.max_pixels,
    )
    return Checks(dataset, entries, template)


def _read(arguments: argparse.Namespace, findings: Findings) -> tuple[Sequence[Any], Callable[[int], str]]:
    """The entries and their places; none, and a finding, if the file is no data file.

    Raises:
        OSError: There is no such file.
        ValueError: There is no such table.
    """
    try:
        return open_entries(arguments.data_path, arguments.data_cache, keep_bad_lines=True)
    except ValueError as error:
        if is_table(arguments.data_path):
            raise
        findings.add_unreadable(arguments.data_path, str(error))
        return [], str


def _check(checks: Checks, place: Callable[[int], str], findings: Findings, num_workers: int) -> None:
    from llava.data.checks import check_all

    results = check_all(checks, num_workers)
    for result in tqdm(results, total=len(checks), desc="validating", unit=" entries", mininterval=1.0):
        findings.add(place(result.index), checks.entries[result.index], result)


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags, for the report."""
    options = {name: value for name, value in vars(arguments).items() if name not in ("data_path", "report", "workers")}
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


if __name__ == "__main__":
    sys.exit(main())
