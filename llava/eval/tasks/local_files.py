"""Reading benchmarks' files from LLaVA's local layout, `playground/data/eval/<name>/...`.

Each loader names the published file that it reads. A missing or wrong file is an error that names its path; a row that
cannot be used is left out and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llava.eval.tasks.base import LoadedTask, Sample, TaskDataError
from llava.json_text import parse_json
from llava.plain_files import read_utf8

SHORT_ANSWER = "Answer the question using a single word or phrase."
OPTION_LETTER = "Answer with the option's letter from the given choices directly."
LETTERS = ("A", "B", "C", "D", "E")
WRONG_ROW = (LookupError, AttributeError, TypeError, ValueError)
"""What reading a row of another shape raises."""

_WHERE = "--data-root names another folder; the files of this package's benchmarks are listed in docs/benchmarks.md"


def existing(candidates: Sequence[Path]) -> Path:
    """The first of several paths that exists.

    Raises:
        TaskDataError: None does.
    """
    for path in candidates:
        if path.exists():
            return path
    named = dict.fromkeys(map(str, candidates))
    raise TaskDataError(f"{' or '.join(named)} does not exist; {_WHERE}")


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        TaskDataError: It is no file, or cannot be read as UTF-8.
    """
    found = existing([path])
    try:
        return read_utf8(found)
    except (OSError, ValueError) as error:
        raise TaskDataError(f"{path} cannot be read ({error}); {_WHERE}") from None


def read_json(path: Path, kind: type = dict) -> Any:
    """A JSON file.

    Args:
        path: The file.
        kind: What it must hold, dict or list.

    Raises:
        TaskDataError: It is missing, not JSON, or holds something else.
    """
    text = read_text(path)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise TaskDataError(f"{path} is not JSON ({error}); {_WHERE}") from None
    if not isinstance(content, kind):
        raise TaskDataError(f"{path} holds a {type(content).__name__}, not a {kind.__name__}; {_WHERE}")
    return content


def read_field(path: Path, name: str, kind: type = list) -> Any:
    """One field of a JSON file that holds an object.

    Raises:
        TaskDataError: The file is not such a file, or lacks the field.
    """
    content = read_json(path)
    if not isinstance(content.get(name), kind):
        raise TaskDataError(f"{path} has no {kind.__name__} {name!r}; it has {', '.join(map(str, content))}")
    return content[name]


def read_jsonl(path: Path) -> list[Any]:
    """A file of one JSON value a line.

    Raises:
        TaskDataError: It is missing, or a line is not JSON.
    """
    rows = []
    # Only "\n" ends a line: the values may hold other line separators.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                rows.append(parse_json(line))
            except ValueError as error:
                raise TaskDataError(f"{path} line {number} is not JSON ({error}); {_WHERE}") from None
    return rows


def collect(
    path: Path,
    rows: Iterable[Any],
    build: Callable[[Any], Sample | None],
    *,
    places: Sequence[str] | None = None,
    advice: str = _WHERE,
) -> LoadedTask:
    """Makes a sample of each row.

    Args:
        path: The file that the rows are from, for messages.
        rows: The rows.
        build: Makes a sample. A row is left out and named if this fails, if a value that must be text is not, or if
            its id was there before. None is a row of another task.
        places: Where each row stands in the file; by default `row 0` and so on.
        advice: Ends the message where there is no good row.

    Raises:
        TaskDataError: There is not one good row.
    """
    samples: dict[str, Sample] = {}
    bad_rows = []
    for number, row in enumerate(rows):
        where = f"{path} {f'row {number}' if places is None else places[number]}"
        try:
            sample = build(row)
            if sample is None:
                continue
            _check_texts(sample)
        except KeyError as error:
            bad_rows.append(f"{where}: missing field {error}")
            continue
        except WRONG_ROW as error:
            bad_rows.append(f"{where}: {error}")
            continue
        if sample.sample_id in samples:
            bad_rows.append(f"{where}: id {sample.sample_id!r} is there twice")
            continue
        samples[sample.sample_id] = sample
    if not samples:
        raise TaskDataError(f"{path} has no usable row: {bad_rows[0] if bad_rows else 'it is empty'}; {advice}")
    return LoadedTask(list(samples.values()), bad_rows)


def keyed(rows: Iterable[Any], key: Callable[[Any], Any], value: Callable[[Any], Any]) -> dict[Any, Any]:
    """What a second file says of each question or image; a row that cannot be used is skipped."""
    found = {}
    for row in rows:
        with suppress(*WRONG_ROW):
            found[key(row)] = value(row)
    return found


def _check_texts(sample: Sample) -> None:
    """Finds a wrong type here, and not when the sample is asked or scored.

    Raises:
        TypeError: A value that must be text is not; an empty cell of a table counts as text.
    """
    fields = {"id": sample.sample_id, "question": sample.prompt, "answer": sample.answer, "group": sample.group}
    texts = list(fields.items())
    for name, value in sample.details.items():
        listed = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        texts += [(name, text) for text in listed]
    for name, text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{name} is {text!r:.80}, which is not text")


def given_answers(answers: Iterable[str]) -> list[str]:
    """The annotators' answers to a question.

    Raises:
        ValueError: There is none, so nothing could be right.
    """
    listed = list(answers)
    if not listed:
        raise ValueError("no annotator's answer is given, so it cannot be scored")
    return listed


def with_tail(question: str, *tails: str) -> str:
    """A question and what LLaVA puts under it, each on a line of its own."""
    return "\n".join((question, *tails))


def options_below(question: str, options: Sequence[str]) -> str:
    """A question with its options under it, `A. ...` a line."""
    return with_tail(question, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)))
