"""What a benchmark is to the runner, and the registry that knows them by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar


class TaskDataError(Exception):
    """A task's files are missing or are not what they should be; the message names the file and what to do."""


@dataclass(frozen=True)
class Sample:
    """One question of a benchmark.

    Attributes:
        sample_id: Unique within the task.
        prompt: The user's text, as the benchmark asks for it.
        images: Paths of the images, in order.
        answer: The reference answer.
        group: What the score is broken down by (a kind of question, a category), or "".
    """

    sample_id: str
    prompt: str
    images: tuple[Path, ...]
    answer: str
    group: str = ""


@dataclass(frozen=True)
class LoadedTask:
    """A task's samples, and the rows that could not be read, each named with the reason."""

    samples: list[Sample]
    bad_rows: list[str] = field(default_factory=list)


class Task(ABC):
    """A benchmark: load, prompt, generation limits, parse, score."""

    name: ClassVar[str] = ""
    description: ClassVar[str] = ""
    max_new_tokens: ClassVar[int] = 64
    default_data_root: ClassVar[Path] = Path("playground/data/eval")

    @abstractmethod
    def load(self, data_root: Path) -> LoadedTask:
        """Reads the benchmark's files.

        Raises:
            TaskDataError: A file is missing or is not readable at all.
        """

    @abstractmethod
    def parse(self, text: str) -> str:
        """The prediction that a model's text stands for, in the form in which it is scored."""

    def is_correct(self, sample: Sample, text: str) -> float:
        """What an answer earns, between 0 and 1; one that cannot be parsed earns nothing."""
        prediction = self.parse(text)
        return float(prediction != "" and prediction == self.parse(sample.answer))

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> dict[str, float | dict[str, float]]:
        """Scores of a run.

        Args:
            samples: Every sample that counts in the denominator.
            texts: What the model said, by sample id; a sample without an answer earns nothing.

        Returns:
            `accuracy`, and `accuracy_by_group` where the samples have groups, between 0 and 1.
        """
        earned = {s.sample_id: self.is_correct(s, texts[s.sample_id]) if s.sample_id in texts else 0.0 for s in samples}
        scores: dict[str, float | dict[str, float]] = {"accuracy": _mean(list(earned.values()))}
        groups = sorted({sample.group for sample in samples if sample.group})
        if groups:
            scores["accuracy_by_group"] = {
                group: _mean([earned[sample.sample_id] for sample in samples if sample.group == group])
                for group in groups
            }
        return scores


_TASKS: dict[str, type[Task]] = {}
TaskClass = TypeVar("TaskClass", bound=type[Task])


def register_task(task: TaskClass) -> TaskClass:
    """Class decorator: makes a task known under its `name`.

    Raises:
        ValueError: The name is empty or taken.
    """
    if not task.name or task.name in _TASKS:
        raise ValueError(f"task name {task.name!r} is empty or taken; taken: {', '.join(sorted(_TASKS))}")
    _TASKS[task.name] = task
    return task


def get_task(name: str) -> Task:
    """Makes the task of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in _TASKS:
        raise ValueError(f"no task {name!r}; there are: {', '.join(available_tasks())}")
    return _TASKS[name]()


def available_tasks() -> list[str]:
    """Names of all tasks, sorted."""
    return sorted(_TASKS)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
