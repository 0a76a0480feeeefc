"""Two sets of answers to one task, question by question: which flipped, with their pictures in one HTML page."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from llava.eval.answer_sets import AnswerSet, made_alike, read_answer_set
from llava.eval.data_place import DataPlace
from llava.eval.report.embedded import THUMBNAIL, thumbnail
from llava.eval.report.flips import Flip, answered_by_both, earned_by, find_flips
from llava.eval.results import Row, read_results
from llava.eval.tasks.own_file import task_of_row
from llava.results.words import counted

_TEMPLATE = "diff.html.jinja"
_KINDS = {"lost": "better in A", "gained": "better in B", "reworded": "the same score, other words"}


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
            f"{self.task}: {counted(self.questions, 'question')} that both answer",
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
    both = answered_by_both(samples, a, b)
    flips = find_flips(both, (a, b), (earned_by(task, a, samples), earned_by(task, b, samples)))
    known = {sample.sample_id for sample in samples}
    only = (len((a.texts.keys() - b.texts.keys()) & known), len((b.texts.keys() - a.texts.keys()) & known))
    return Comparison(a.task, (path_a, path_b), len(both), len(both) - len(flips), flips, _settings(a, b), only)


def _row_of(answers: AnswerSet) -> Row:
    """What the results beside the answers say of them; the task's name alone where they say nothing."""
    rows = read_results(answers.path.parents[2] / "results.json") if len(answers.path.parents) > 2 else []
    found = (row for row in rows if row["task"] == answers.task and made_alike(row, answers))
    return next(found, {"task": answers.task})


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
        (flip, [thumbnail(image) for image in flip.sample.images] if number < pictures else [])
        for number, flip in enumerate(comparison.flips)
    ]
    text = resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    page = Template(text, autoescape=True, keep_trailing_newline=True)
    return page.render(comparison=comparison, cards=cards, kinds=_KINDS, thumbnail=THUMBNAIL, zip=zip)
