"""A file of one's own questions as a task: `--tasks my.json`. Everything that works on a benchmark works on it.

The task is called after the file and its content, `my-1a2b3c4d`, so that a file that was changed, or another one of the
same name, has answers and results of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from llava.eval.metrics.own_answers import METRICS, plain
from llava.eval.tasks.base import TASKS, LoadedTask, Sample, Task, TaskDataError, get_task
from llava.eval.tasks.local_files import collect
from llava.eval.tasks.own_rows import MAX_ANSWER_TOKENS, earned_by, is_annotated, questions_in, sample_of_row
from llava.images.paths import path_inside
from llava.json_text import parse_json
from llava.plain_files import read_utf8
from llava.results.words import counted

ROW_FIELD = "own_file"
"""What a row of results.json has beside its task's name, to make the task again."""

_ENDINGS = (".json", ".jsonl")
_LONGEST_NAME = 60
_BETWEEN = re.compile(r"[\s,]*")
_SHOWN = 3


class OwnFile(Task):
    """The questions of a file; `open_own_file` makes a class of it for each.

    Attributes:
        path: The file.
        samples: Its questions; images as the file names them.
        bad_lines: What could not be read, each named by file and line.
        notes: What a user should know of the file before anything is asked.
    """

    max_new_tokens = MAX_ANSWER_TOKENS
    path: ClassVar[Path]
    samples: ClassVar[Sequence[Sample]]
    bad_lines: ClassVar[Sequence[str]]
    notes: ClassVar[Sequence[str]]

    def load(self, data_root: Path) -> LoadedTask:
        """Puts images and clips into a folder: that of the file, or that of `--image-root`."""
        samples, bad = [], list(self.bad_lines)
        for sample in self.samples:
            try:
                images = tuple(path_inside(data_root, str(image)) for image in sample.images)
                video = None if sample.video is None else path_inside(data_root, str(sample.video))
            except ValueError as error:
                what = "image" if sample.video is None else "image or video"
                bad.append(f"{self.path} question {sample.sample_id!r}: {what} {error}; --image-root names a folder")
                continue
            samples.append(replace(sample, images=images, video=video))
        if not samples:
            raise TaskDataError(f"{self.path}: not one question can be asked; {bad[0]}")
        return LoadedTask(samples, bad)

    def parse(self, text: str) -> str:
        """The text in lower case, surrounding space and one final period removed."""
        return plain(text)

    def is_correct(self, sample: Sample, text: str) -> float:
        """What the metric of the question gives."""
        return earned_by(sample, text)

    def lines(self) -> Iterator[str]:
        """What the file is taken for, for people."""
        pictures = len({name for sample in self.samples for name in map(str, sample.images)})
        videos = len({sample.video for sample in self.samples} - {None})
        bare = sum(not sample.images and sample.video is None for sample in self.samples)
        kinds = {"picture": pictures, "video": videos} if videos else {"picture": pictures}
        about = " and ".join(counted(count, kind) for kind, count in kinds.items() if count or not videos)
        without = f", {bare} without a picture{' or video' if videos else ''}" if bare else ""
        yield f"{self.path}: {counted(len(self.samples), 'question')} about {about}{without}; the task {self.name}"
        counts = Counter(sample.details["metric"] for sample in self.samples)
        for metric, count in counts.items():
            yield f"  metric {metric}, {count} of {len(self.samples)}: {METRICS[metric]}"
        yield from (f"  {note}" for note in self.notes)
        for line in self.bad_lines[:_SHOWN]:
            yield f"  left out: {line}"
        if len(self.bad_lines) > _SHOWN:
            yield f"  left out: {len(self.bad_lines) - _SHOWN} more"


def is_own_file(name: str) -> bool:
    """Whether a name of `--tasks` is that of a file rather than of a task."""
    return TASKS.find(name) is None and name.endswith(_ENDINGS)


def open_own_file(path: str | Path, metric: str | None = None, tail: str = "") -> OwnFile:
    """Makes a task of a file.

    Args:
        path: JSON, a list of rows; or JSONL, a row a line.
        metric: What all rows are scored by; by default what a row's own field `metric` says, else what its shape does.
        tail: A line below each question that has no options.

    Raises:
        TaskDataError: The file cannot be read, or holds no question.
    """
    path = Path(path)
    try:
        text = read_utf8(path)
        places, rows = _entries(text, by_line=path.suffix == _ENDINGS[1])
    except (OSError, ValueError) as error:
        reason = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise TaskDataError(
            f"{reason}; --tasks takes a JSON list or JSONL of questions, see docs/own_questions.md"
        ) from None
    annotated = any(map(is_annotated, rows))
    advice = "docs/own_questions.md says what a row looks like"
    taken: set[str] = set()

    def build(numbered: tuple[int, Any]) -> Sample:
        number, row = numbered
        if isinstance(row, _NoJson):
            raise ValueError(row)
        sample = sample_of_row(row, number, metric=metric, annotated=annotated, tail=tail)
        return replace(sample, sample_id=_free_id(sample.sample_id, taken))

    loaded = collect(path, enumerate(rows), build, places=places, advice=advice)
    more = sum(questions_in(row) > 1 for row in rows)
    digest = hashlib.sha256(json.dumps([text, tail]).encode()).hexdigest()[:8]
    attributes = {
        "__doc__": OwnFile.__doc__,
        "name": f"{_stem(path)}-{digest}",
        "description": f"questions of {path.name}",
        "default_data_root": path.parent,
        "rules": ", ".join(sorted({sample.details["metric"] for sample in loaded.samples})),
        "own_file": {"path": str(path.absolute()), "metric": metric or "", "tail": tail},
        "path": path,
        "samples": loaded.samples,
        "bad_lines": loaded.bad_rows,
        "notes": [f"conversations with several questions: {more}; the first of each is asked"] if more else [],
    }
    own: OwnFile = type("OwnFile", (OwnFile,), attributes)()
    return own


def task_of_row(row: Mapping[str, Any], data_root: Path | None = None) -> Task:
    """The task that a row of results.json is about.

    Args:
        row: Of results.json.
        data_root: Where a file of one's own may lie by now.

    Raises:
        ValueError: No task of that name is registered.
        TaskDataError: The row's file is gone, or is not what it was.
    """
    own = row.get(ROW_FIELD)
    if not isinstance(own, Mapping):
        return get_task(row["task"])
    path = Path(str(own.get("path")))
    if data_root is not None and not path.exists():
        path = data_root / path.name
    task = open_own_file(path, own.get("metric") or None, str(own.get("tail") or ""))
    if task.name != row["task"]:
        raise TaskDataError(f"{path} has changed: it is {task.name} now, and was {row['task']}")
    return task


class _NoJson(str):
    """Why a line of JSONL is not JSON."""


def _entries(text: str, *, by_line: bool) -> tuple[list[str], list[Any]]:
    """Where each row stands, and the rows; a text of objects is read line by line, whatever its file is called.

    Raises:
        ValueError: It is neither.
    """
    if by_line and not text.lstrip().startswith("["):
        return _lines(text)
    try:
        content = parse_json(text)
    except ValueError as error:
        if not text.lstrip().startswith("{"):
            raise ValueError(f"it is not JSON ({error})") from None
        return _lines(text)
    if not isinstance(content, list):
        raise ValueError(f"it holds a {type(content).__name__}, not a list of questions")
    return _places(text, len(content)), content


def _places(text: str, count: int) -> list[str]:
    """The line on which each entry of a JSON list begins."""
    decode = json.JSONDecoder().raw_decode
    places, line, counted, at = [], 1, 0, text.index("[") + 1
    for _ in range(count):
        found = _BETWEEN.match(text, at)
        start = found.end() if found else at
        line += text.count("\n", counted, start)
        counted = start
        places.append(f"line {line}")
        at = decode(text, start)[1]
    return places


def _lines(text: str) -> tuple[list[str], list[Any]]:
    places, rows = [], []
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines(): texts may hold other line ends
        if not line.strip():
            continue
        places.append(f"line {number}")
        try:
            rows.append(parse_json(line))
        except ValueError as error:
            reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            rows.append(_NoJson(f"it is not JSON ({reason})"))
    return places, rows


def _free_id(wanted: str, taken: set[str]) -> str:
    """The id, with `#2`, `#3`... behind it where it is taken: datasets repeat that of a picture."""
    free, number = wanted, 1
    while free in taken:
        number += 1
        free = f"{wanted}#{number}"
    taken.add(free)
    return free


def _stem(path: Path) -> str:
    """The file's name as a task may be called."""
    return re.sub(r"[^\w-]+", "_", path.stem, flags=re.ASCII).strip("_-")[:_LONGEST_NAME] or "questions"
