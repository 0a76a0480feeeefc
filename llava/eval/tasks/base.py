"""What a benchmark is to the runner, and the registry that knows them by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

from llava.eval.metrics.averages import mean, mean_by_group

Scores: TypeAlias = dict[str, float | dict[str, float]]


class TaskDataError(Exception):
    """A task's files are missing or are not what they should be; the message names the file and what to do."""


class EmbeddedImage(bytes):
    """An image that came inside a file of the benchmark.

    Attributes:
        name: What it is called in messages and run keys, as a file's name is.
    """

    name: str

    def __new__(cls, content: bytes, name: str = "") -> EmbeddedImage:
        """Takes the encoded bytes of an image, and what to call it."""
        image = super().__new__(cls, content)
        image.name = name
        return image


@dataclass(frozen=True)
class Sample:
    """One question of a benchmark.

    Attributes:
        sample_id: Unique within the task.
        prompt: The user's text, as the benchmark asks for it.
        images: Paths of the images, or their bytes, in order.
        answer: The reference answer; "" where the split's answers are not public.
        group: What the score is broken down by (a kind of question, a category), or "".
        details: What else the task's score needs (options, the annotators' answers), as plain JSON values.
    """

    sample_id: str
    prompt: str
    images: tuple[Path | EmbeddedImage, ...]
    answer: str
    group: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedTask:
    """A task's samples, and the rows that could not be read, each named with the reason."""

    samples: list[Sample]
    bad_rows: list[str] = field(default_factory=list)


class Task(ABC):
    """A benchmark: load, prompt, generation limits, parse, score.

    Attributes:
        name: What it is called on the command line.
        description: A line for `--list`.
        max_new_tokens: Limit of an answer's length.
        main_score: Which of its scores stands for the task in tables and retention.
        published_size: Rows of the published split; another number is worth a word in the report.
        has_answers: Whether the split's answers are public; if not, answers are only written for the server.
    """

    name: ClassVar[str] = ""
    description: ClassVar[str] = ""
    max_new_tokens: ClassVar[int] = 64
    main_score: ClassVar[str] = "accuracy"
    published_size: ClassVar[int | None] = None
    has_answers: ClassVar[bool] = True
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

    def size_note(self, samples: Sequence[Sample]) -> str | None:
        """A line that says how many rows are there and should be, or None if that is right or not known."""
        if self.published_size in (None, len(samples)):
            return None
        return f"{self.name}: {len(samples)} questions, the published split has {self.published_size}"

    def write_submission(self, samples: Sequence[Sample], texts: Mapping[str, str], folder: Path) -> Path | None:
        """Writes the file that the benchmark's server takes.

        Returns:
            Its path, or None if the benchmark has no server.
        """
        return None

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Scores of a run.

        Args:
            samples: Every sample that counts in the denominator.
            texts: What the model said, by sample id; a sample without an answer earns nothing.

        Returns:
            `accuracy`, and `accuracy_by_group` where the samples have groups, between 0 and 1.
        """
        earned = {s.sample_id: self.is_correct(s, texts[s.sample_id]) if s.sample_id in texts else 0.0 for s in samples}
        scores: Scores = {"accuracy": mean(earned.values())}
        by_group = mean_by_group((sample.group, earned[sample.sample_id]) for sample in samples if sample.group)
        if by_group:
            scores["accuracy_by_group"] = by_group
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
