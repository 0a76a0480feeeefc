"""LLaVA's question and answer files, and the flags that its `model_vqa*` modules share."""

from __future__ import annotations

import argparse
import json
import math
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from llava.command_line import CommandParser, add_model_flags, add_shared, compression_option, loading_options
from llava.images.paths import path_inside
from llava.json_text import parse_json
from llava.plain_files import expanded, read_utf8

Item = TypeVar("Item")

_SHOWN = 10


@dataclass(frozen=True)
class Problem:
    """What stands in place of an image that cannot be named.

    Attributes:
        reason: What is wrong, with file and row.
    """

    reason: str


@dataclass(frozen=True)
class Asked:
    """A line of a question file, ready to be asked.

    Attributes:
        text: What the model is asked, without its image.
        image: Path or bytes of the image, or None; with a `Problem` the question is not asked, but told of.
        row: The fields that stand before the answer in the answer file.
        more: Those that stand after it.
    """

    text: str
    image: Path | bytes | Problem | None
    row: dict[str, Any]
    more: dict[str, Any]


def make_parser(name: str, description: str, *, conv_mode: str = "llava_v1") -> argparse.ArgumentParser:
    """A command line with LLaVA's flags and defaults, and ours beside them."""
    parser = CommandParser(f"llava.eval.{name}", description)
    add_model_flags(parser)
    parser.set_defaults(conv_mode=conv_mode)
    parser.add_argument("--image-folder", default="", help="what the images' paths begin at")
    parser.add_argument("--question-file", type=Path, required=True)
    parser.add_argument("--answers-file", type=Path, default=Path("answer.jsonl"))
    parser.add_argument("--num-chunks", type=int, default=1, help="parts that the questions are divided into")
    parser.add_argument("--chunk-idx", type=int, default=0, help="which of them this is")
    add_shared(parser, "--temperature", "--top-p", "--num-beams", "--compression")
    add_shared(parser, "--batch-size", type=int, default=1, help="questions a batch (default 1, as in LLaVA)")
    return parser


def get_chunk(items: Sequence[Item], num_chunks: int, chunk_idx: int) -> list[Item]:
    """LLaVA's part of a list: equal parts, the last ones shorter or empty.

    Raises:
        ValueError: There is no such part.
    """
    if not 0 <= chunk_idx < num_chunks:
        raise ValueError(f"--chunk-idx must be between 0 and --num-chunks - 1, got {chunk_idx} of {num_chunks}")
    size = math.ceil(len(items) / num_chunks)
    return list(items[chunk_idx * size : (chunk_idx + 1) * size])


def image_path(args: argparse.Namespace, question_id: Any, image: Any) -> Path | Problem:
    """Where a question's image is: inside `--image-folder`, as its name is written; or why it is nowhere there."""
    try:
        return path_inside(expanded(args.image_folder), image)
    except ValueError as error:
        advice = ", '/' takes any absolute name" if isinstance(image, str) and Path(image).is_absolute() else ""
        where = f"{args.question_file}: question {question_id!r}"
        return Problem(f"{where}: image {error}; --image-folder says where images are{advice}")


def answer_file(args: argparse.Namespace, asked: Sequence[Asked], max_new_tokens: int) -> None:
    """Asks a model and writes LLaVA's answer file, a line a question, in the order of the questions.

    Raises:
        ValueError: The checkpoint, the budget or a flag is not what it should be; or, once all others are answered and
            written, questions could not be asked, which have no line.
    """
    path = expanded(args.answers_file)
    if path.is_dir():
        raise ValueError(f"--answers-file {str(args.answers_file)!r} is a folder; name a file in it")
    good = [number for number, item in enumerate(asked) if not isinstance(item.image, Problem)]
    problems = {number: item.image.reason for number, item in enumerate(asked) if isinstance(item.image, Problem)}
    if problems and not good:
        raise ValueError(f"not one question can be asked; {next(iter(problems.values()))}")
    from tqdm import tqdm

    from llava.inference import GenerationOptions, Inference, Question
    from llava.utils import get_model_name_from_path

    options = GenerationOptions(max_new_tokens, args.temperature, args.top_p, args.num_beams)
    loading = loading_options(args) | compression_option(args)
    inference = Inference.load(args.model_path, args.model_base, conv_mode=args.conv_mode, **loading)
    ending = {"model_id": get_model_name_from_path(args.model_path), "metadata": {}}
    questions = [Question(asked[number].text, _images(asked[number])) for number in good]
    path.parent.mkdir(parents=True, exist_ok=True)
    cut, failed = _Notes("prompts were cut"), _Notes("questions have no answer")
    waiting: dict[int, str | None] = dict.fromkeys(problems)
    for reason in problems.values():
        failed.add(reason)
    done = 0
    with path.open("w", encoding="utf-8") as file:
        stream = inference.ask(questions, batch_size=args.batch_size, options=options, skip_errors=True)
        for answer in tqdm(stream, total=len(questions), unit="q"):
            number = good[answer.index]
            waiting[number] = answer.text if answer.error is None else None
            name = f"question {asked[number].row['question_id']!r}"
            if answer.error is not None:
                failed.add(f"{name}: {answer.error}")
            if answer.truncated:
                lost = f"its last {answer.lost_tokens} tokens are not seen (tokenizer_model_max_length)"
                cut.add(f"{name}: the prompt is cut as in LLaVA, {lost}")
            while done in waiting:
                item, text = asked[done], waiting.pop(done)
                line = item.row | {"text": text} | item.more | {"answer_id": uuid.uuid4().hex} | ending
                file.write("" if text is None else json.dumps(line) + "\n")
                done += 1
            file.flush()
    cut.end(len(asked))
    if failed.first is not None:
        raise ValueError(f"{failed.count} of {len(asked)} {failed.about}, the others are in {path}; {failed.first}")


def _images(item: Asked) -> tuple[Path | bytes, ...]:
    return () if item.image is None or isinstance(item.image, Problem) else (item.image,)


class _Notes:
    """What is told of some questions: the first ones while they are asked, and how many there were.

    Attributes:
        about: What they have in common.
        count: How many there are.
        first: What was told first.
    """

    def __init__(self, about: str) -> None:
        self.about = about
        self.count = 0
        self.first: str | None = None

    def add(self, note: str) -> None:
        """Tells of one more."""
        from tqdm import tqdm

        self.first = self.first or note
        self.count += 1
        if self.count <= _SHOWN:
            tqdm.write(note, file=sys.stderr)

    def end(self, of: int) -> None:
        """Tells how many there were, if not all have been told."""
        if self.count > _SHOWN:
            print(f"{self.count} of {of} {self.about}", file=sys.stderr)


_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "text": (str, "text"),
    "category": (str, "text"),
    "label": (str, "text"),
    "prompt": (str, "text"),
    "question_id": ((str, int), "text or a whole number"),
}


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a JSONL file, and how many lines are not JSON.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not UTF-8.
    """
    rows: list[dict[str, Any]] = []
    bad = 0
    for line in read_utf8(path).split("\n"):
        if line.strip():
            try:
                rows.append(parse_json(line))
            except ValueError:
                bad += 1
    return rows, bad


def read_questions(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a JSONL file that must have certain fields.

    Raises:
        OSError: It cannot be read.
        ValueError: A line is not JSON, or lacks a field.
    """
    rows, bad = read_lines(path)
    if bad:
        raise ValueError(f"{path}: {bad} lines are not JSON")
    check_fields(path, rows, fields)
    return rows


def check_fields(path: Path, rows: Sequence[Any], fields: Sequence[str]) -> None:
    """Refuses rows that lack a field, or hold something else than text or an id in it; and no rows at all.

    Raises:
        ValueError: There is one, or none.
    """
    if not rows:
        raise ValueError(f"{path} has no row: there is nothing to score or to ask")
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds no list of rows")
    for number, row in enumerate(rows, start=1):
        lacking = [name for name in fields if not isinstance(row, dict) or name not in row]
        if lacking:
            raise ValueError(f"{path}: row {number} has no field {lacking[0]!r}")
        for name in set(fields) & set(_KINDS):
            kinds, meant = _KINDS[name]
            if not isinstance(row[name], kinds):
                raise ValueError(f"{path}: row {number} has {row[name]!r:.60} as {name!r}, which is not {meant}")
