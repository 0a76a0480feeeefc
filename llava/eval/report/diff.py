"""Two sets of answers to one task, question by question: which flipped, with their pictures in one HTML page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from llava.eval.answer_sets import AnswerSet, made_alike, read_answer_set
from llava.eval.data_place import DataPlace
from llava.eval.judge.run import read_grades
from llava.eval.results import Row, read_results
from llava.eval.tasks import Sample, Task
from llava.eval.tasks.own_file import task_of_row
from llava.images.source import UnreadableImageError, open_image

_THUMBNAIL = 256
_TEMPLATE = "diff.html.jinja"
_KINDS = {"lost": "better in A", "gained": "better in B", "reworded": "the same score, other words"}


@dataclass(frozen=True)
class Flip:
    """A question that the two answer differently.

    Attributes:
        sample: The question.
        texts: What A and B said.
        earned: What each earned; None is not graded.
        kind: "lost" (A earned more), "gained" (B did) or "reworded".
    """

    sample: Sample
    texts: tuple[str, str]
    earned: tuple[float | None, float | None]
    kind: str


@dataclass
class Comparison:
    """Two sets of answers.

    Attributes:
        task: The task's name.
        paths: The files A and B.
        questions: How many both have.
        same: Questions with the same text in both.
        flips: All others.
        settings: A line for each difference in what the two were made with.
        only: How many questions only A and only B answers.
    """

    task: str
    paths: tuple[Path, Path]
    questions: int
    same: int
    flips: list[Flip] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    only: tuple[int, int] = (0, 0)

    def count(self, kind: str) -> int:
        """How many flips are of a kind."""
        return sum(flip.kind == kind for flip in self.flips)

    def summary(self) -> str:
        """The counts, in lines."""
        lines = [
            f"{self.task}: {self.questions} questions that both answer",
            f"A: {self.paths[0]}",
            f"B: {self.paths[1]}",
        ]
        lines += [f"{self.count(kind)} {meaning}" for kind, meaning in _KINDS.items()]
        lines.append(f"{self.same} the same words")
        lines += [f"{count} only in {name}" for count, name in zip(self.only, "AB", strict=True) if count]
        return "\n".join([*lines, *self.settings])


def compare_answers(path_a: Path, path_b: Path, data: DataPlace) -> Comparison:
    """Reads two files of answers and scores them question by question.

    Args:
        path_a: `answers/<task>/<compression>.jsonl` of an output folder.
        path_b: Another, of the same task.
        data: Where the benchmark's files are.

    Raises:
        ValueError: A file is not one of answers, or the two are of different tasks.
        TaskDataError: The benchmark's files are missing, or a file of one's own has changed.
    """
    a, b = read_answer_set(path_a), read_answer_set(path_b)
    if a.task != b.task:
        raise ValueError(f"{path_a} answers {a.task} and {path_b} answers {b.task}; name two of one task")
    row = _row_of(b)
    task = task_of_row(row, data.root)
    samples = data.load(task, row.get("data_root")).samples
    earned = [_earned(task, answers, samples) for answers in (a, b)]
    both = [s for s in samples if s.sample_id in a.texts and s.sample_id in b.texts]
    flips = [
        _flip(s, (a.texts[s.sample_id], b.texts[s.sample_id]), (earned[0][s.sample_id], earned[1][s.sample_id]))
        for s in both
        if a.texts[s.sample_id] != b.texts[s.sample_id] or earned[0][s.sample_id] != earned[1][s.sample_id]
    ]
    order = list(_KINDS)
    flips.sort(key=lambda flip: order.index(flip.kind))
    known = {sample.sample_id for sample in samples}
    only = (len((a.texts.keys() - b.texts.keys()) & known), len((b.texts.keys() - a.texts.keys()) & known))
    return Comparison(a.task, (path_a, path_b), len(both), len(both) - len(flips), flips, _settings(a, b), only)


def _row_of(answers: AnswerSet) -> Row:
    """What the results beside the answers say of them; the task's name alone where they say nothing."""
    rows = read_results(answers.path.parents[2] / "results.json") if len(answers.path.parents) > 2 else []
    found = (row for row in rows if row["task"] == answers.task and made_alike(row, answers))
    return next(found, {"task": answers.task})


def _earned(task: Task, answers: AnswerSet, samples: Sequence[Sample]) -> Mapping[str, float | None]:
    """What each answer earned; None where the judge of a judged task gave no grade."""
    grades = read_grades(answers.path.parents[2], task.name, answers.path.name) if task.is_judged else None
    earned = task.earned(samples, answers.texts, grades)
    return {key: None if math.isnan(value) else value for key, value in earned.items()}


def _flip(sample: Sample, texts: tuple[str, str], earned: tuple[float | None, float | None]) -> Flip:
    a, b = earned
    kind = "reworded" if a is None or b is None or a == b else "lost" if a > b else "gained"
    return Flip(sample, texts, earned, kind)


def _settings(a: AnswerSet, b: AnswerSet) -> list[str]:
    names = sorted(set(a.key) | set(b.key))
    return [f"{n}: A {a.key.get(n)!r}, B {b.key.get(n)!r}" for n in names if a.key.get(n) != b.key.get(n)]


def to_html(comparison: Comparison, pictures: int = 200) -> str:
    """One page that needs no other file.

    Args:
        comparison: What was compared.
        pictures: How many flips carry their picture; those that changed the score come first.
    """
    from jinja2 import Template

    cards = [
        (flip, [_picture(image) for image in flip.sample.images] if number < pictures else [])
        for number, flip in enumerate(comparison.flips)
    ]
    text = resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    page = Template(text, autoescape=True, keep_trailing_newline=True)
    return page.render(comparison=comparison, cards=cards, kinds=_KINDS, thumbnail=_THUMBNAIL, zip=zip)


def _picture(source: Any) -> str:
    """A small JPEG as an address that holds it, or why there is none."""
    try:
        image = open_image(source)
    except UnreadableImageError as error:
        return str(error)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "jpeg", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
