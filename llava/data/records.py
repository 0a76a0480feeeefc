"""Entries of LLaVA's form: reading them from JSON, and what one must be to be trained on. Needs no torch.

A sequence of entries comes from JSON (here) or from a table (`llava.data.tables`). Both name their images in `image`:
JSON by paths, a table by `StoredImage`; either is opened when its sample is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from llava.data.foreign import Record, looks_foreign
from llava.data.templates import PromptTemplate, Turn, move_images_to_front
from llava.images.paths import path_inside
from llava.json_text import parse_json

TEXT_ONLY = "text"
_ROLES = ("human", "gpt")


@dataclass(frozen=True)
class StoredImage:
    """An image that lies in a table.

    Attributes:
        name: File and row, for messages; no two images have the same.
        num_bytes: Size of the table's files.
        mtime_ns: Their time of change.
        read: Gives the encoded image; None if the table holds only a name in its place.
    """

    name: str
    num_bytes: int
    mtime_ns: int
    read: Callable[[], bytes | None] = field(repr=False, compare=False)


ImageRef = str | StoredImage


class Problem(NamedTuple):
    """What keeps an entry from being trained on.

    Attributes:
        kind: `schema`, `image path`, `image count`, `turns` or `no answer`.
        message: In words.
    """

    kind: str
    message: str


class BadLine(NamedTuple):
    """Stands for a line of a JSONL file that is not JSON."""

    message: str


def read_records(path: str | Path, template: PromptTemplate, image_folder: str | Path = "") -> list[Record]:
    """Reads a JSON list or a JSONL file of `{id, image?, conversations: [{from, value}, ...]}` and checks each entry.

    Args:
        path: JSONL if it ends so, with an object a line.
        template: What the conversations must fit.
        image_folder: Where the paths of the images begin.

    Raises:
        ValueError: The file or one of its entries is not of this form; names it.
    """
    entries = read_entries(path)
    records = [record for _, record in entries]
    check_records(records, lambda index: f"{path}, {entries[index][0]}", template, image_folder)
    return records


def check_records(
    records: Iterable[Any], place: Callable[[int], str], template: PromptTemplate, image_folder: str | Path = ""
) -> None:
    """Refuses data of which an entry cannot be trained on.

    Args:
        records: The entries.
        place: Where an entry stands, by its index.
        template: What the conversations must fit.
        image_folder: Where the paths of the images begin.

    Raises:
        ValueError: Names the first such entry and what is wrong.
    """
    for index, record in enumerate(records):
        problem = problem_of(record, template, image_folder)
        if problem:
            name = record.get("id") if isinstance(record, dict) else None
            raise ValueError(f"{place(index)} (id {name!r}): {problem.message}")


def read_entries(path: str | Path, *, keep_bad_lines: bool = False) -> list[tuple[str, Any]]:
    """Reads a JSON list or a JSONL file as (place, entry) pairs, and checks no entry.

    Args:
        path: JSONL if it ends so.
        keep_bad_lines: A line of JSONL that is not JSON becomes a `BadLine`.

    Raises:
        ValueError: The file is not JSON, or holds no list; names the file and the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; docs/data.md says how tables and datasets of the Hub are named")
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors put a mark in front
        entries = _json_lines(text, keep_bad_lines) if path.suffix == ".jsonl" else parse_json(text)
    except ValueError as error:
        advice = ""
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            advice = "; if it has an object a line, give it a name that ends in .jsonl"
        raise ValueError(f"{path} is not valid JSON: {error}{advice}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} must hold a non-empty list of conversations")
    if path.suffix == ".jsonl":
        return entries
    return [(f"entry {number}", record) for number, record in enumerate(entries)]


def _json_lines(text: str, keep_bad_lines: bool) -> list[tuple[str, Any]]:
    """The objects of a JSONL text, each with its place."""
    entries: list[tuple[str, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON strings may hold other line ends
        if line.strip():
            try:
                entries.append((f"line {number}", parse_json(line)))
            except ValueError as error:
                message = str(error)
                if isinstance(error, json.JSONDecodeError):
                    message = f"{error.msg} (column {error.colno})"
                if not keep_bad_lines:
                    raise ValueError(f"line {number}: {message}") from error
                entries.append((f"line {number}", BadLine(f"not valid JSON: {message}")))
    return entries


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Writes entries as `read_records` reads them: JSONL if the path ends so, else a list with an entry a line.

    Raises:
        ValueError: The path is that of a folder, a pipe or a device.
    """
    path = Path(path).resolve()  # a link stays one
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is there already, and is no file; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record) for record in records]  # in ASCII: scraped texts hold halves of surrogate pairs
    text = "\n".join(lines) + "\n" if path.suffix == ".jsonl" else "[\n" + ",\n".join(lines) + "\n]\n"
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def problem_of(record: Any, template: PromptTemplate | None, image_folder: str | Path = "") -> Problem | None:
    """What keeps an entry from being trained on, None if nothing does; opens and tokenises nothing.

    Args:
        record: An entry of the JSON.
        template: What the conversation must fit; None checks what any template needs.
        image_folder: Where the paths of the images begin.
    """
    if isinstance(record, BadLine):
        return Problem("schema", record.message)
    if not isinstance(record, dict) or not isinstance(record.get("conversations"), list):
        return Problem("schema", "not an object with a list `conversations`" + _advice(record))
    if record.get("images") and not images_of(record):
        return Problem("schema", "its images stand in `images`, and LLaVA's form has `image`" + _advice(record))
    for turn in record["conversations"]:
        if not isinstance(turn, dict) or turn.get("from") not in _ROLES or not isinstance(turn.get("value"), str):
            message = f"a turn must be {{'from': 'human' or 'gpt', 'value': text}}, got {turn!r:.200}"
            return Problem("schema", message + _advice(record))
        if not is_text(turn["value"]):
            return Problem("schema", f"a turn holds half of a surrogate pair, which is no character: {turn!r:.200}")
    for name in images_of(record):
        if isinstance(name, StoredImage):
            continue
        try:
            path_inside(image_folder, name)
        except ValueError as error:
            return Problem("image path", f"image {error}; it must be a path inside --image_folder (/ takes any)")
    try:
        turns = turns_of(record)
    except ValueError as error:
        return Problem("image count", str(error))
    try:
        if template is not None:
            template.check(turns)
    except ValueError as error:
        return Problem("turns", str(error))
    if not any(turn.role == "gpt" for turn in turns):
        return Problem("no answer", "no turn from 'gpt' after one from 'human', so there is nothing to learn")
    return None


def _advice(record: Any) -> str:
    """How an entry of another program's form is brought into LLaVA's."""
    if not looks_foreign(record):
        return ""
    return "; `llava convert DATA --output NEW.json` (python -m llava.data.convert) writes LLaVA's form"


def is_text(text: str) -> bool:
    """Whether UTF-8 can hold a text; JSON can also hold half of a surrogate pair, which no disk or tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """A text that any terminal or file in UTF-8 takes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def images_of(record: Record) -> list[ImageRef]:
    """The images of an entry: `image` is absent, null, one, or a list; a path or what a table holds."""
    image = record.get("image")
    if image is None:
        return []
    return list(image) if isinstance(image, list) else [image]


def turns_of(record: Record) -> list[Turn]:
    """The turns of an entry, its images placed; as in LLaVA, one that the assistant opens loses its first turn.

    Raises:
        ValueError: The placeholders are not as many as the images.
    """
    turns = [Turn(turn["from"], turn["value"]) for turn in record["conversations"]]
    if turns and turns[0].role == "gpt":
        turns = turns[1:]
    num_images = len(images_of(record))
    return move_images_to_front(turns, num_images) if num_images else turns


def source_of(record: Any) -> str:
    """Where an entry comes from: the first folder of its (first) image's path, `text` if it has no image.

    A table says it in the column `data_source`, where it has one.
    """
    images = images_of(record) if isinstance(record, dict) else []
    if not images:
        return TEXT_ONLY
    if isinstance(images[0], StoredImage):
        return str(record.get("data_source", "(table)"))
    folders = Path(str(images[0])).parts[:-1]
    return folders[0] if folders else "(no folder)"


def count_sources(records: Iterable[Any]) -> dict[str, int]:
    """Entries of each source, by name."""
    counts: dict[str, int] = {}
    for record in records:
        source = source_of(record)
        counts[source] = counts.get(source, 0) + 1
    return dict(sorted(counts.items()))


def source_table(columns: Sequence[tuple[str, dict[str, int]]]) -> str:
    """Counts per source as text, a line a source and a sum.

    Args:
        columns: (heading, counts) pairs; a source that a column lacks counts 0 there.
    """
    sources = sorted({source for _, counts in columns for source in counts})
    width = max([len(source) for source in sources] + [len("source")])
    rows = [("source", [heading for heading, _ in columns])]
    rows += [(source, [f"{counts.get(source, 0):,}" for _, counts in columns]) for source in sources]
    rows += [("all", [f"{sum(counts.values()):,}" for _, counts in columns])]
    return "\n".join(f"{printable(name):{width}}" + "".join(f"  {cell:>10}" for cell in cells) for name, cells in rows)
