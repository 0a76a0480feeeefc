"""What a benchmark is: all that is known of it, in one class. And the registry that knows the classes by name."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

from llava.eval.metrics.averages import mean, mean_by_group, some
from llava.kinds import Registry
from llava.results.score_parts import ScoreParts, mean_of_sums
from llava.results.task_facts import FIELD, SHARE, TaskFacts, facts_of

Scores: TypeAlias = dict[str, float | dict[str, float]]
Grades: TypeAlias = Mapping[str, Sequence[Any | None]]
"""A judge's grades by sample id, one a run of the judge; None is missing."""

_MODULES = (
    "chartqa crowded egoschema gqa llava_bench mmbench mme mmmu mmstar mmvet mvbench ocrbench pope refcoco scienceqa "
    "seed_bench textvqa tiny_pope tiny_vqa video_qa videomme vizwiz vqav2"
)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_ALL = "all"  # of `--tasks all`


class TaskDataError(ValueError):
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
        video: The clip that it is about, or None.
        frames: How many frames of the clip are shown; None: as many as the model's family takes.
    """

    sample_id: str
    prompt: str
    images: tuple[Path | EmbeddedImage, ...]
    answer: str
    group: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    video: Path | None = None
    frames: int | None = None

    @property
    def shows_pictures(self) -> bool:
        """Whether it is about an image or a clip: the latency of those is measured."""
        return bool(self.images) or self.video is not None

    @property
    def image_names(self) -> str:
        """What its images and clip are called: equal for questions about the same. One without any stands alone."""
        names = [image.name if isinstance(image, EmbeddedImage) else str(image) for image in self.images]
        names += [] if self.video is None else [str(self.video)]
        return "\n".join(names) or f"question {self.sample_id}"


@dataclass(frozen=True)
class LoadedTask:
    """A task's samples, and the rows that could not be read, each named with the reason."""

    samples: list[Sample]
    bad_rows: list[str] = field(default_factory=list)


class Task(ABC):
    """A benchmark: load, prompt, generation limits, parse, score.

    A task of one's own sets the first attributes and defines `load` and `parse`; docs/add_a_task.md has one.

    Attributes:
        name: What it is called on the command line.
        description: A line for `--list`.
        max_new_tokens: Limit of an answer's length.
        main_score: Which of its scores stands for the task in tables and retention.
        scale: `SHARE`, a main score between 0 and 1 that is shown in percent; or `POINTS`, shown as it is.
        has_answers: Whether the split's answers are public; if not, answers are only written for the server.
        needs_image: Whether it cannot be answered without its images; the high-image mean is over such tasks.
        video_frames: Frames that its questions show of a clip; None of a benchmark of images.
        in_means: Whether it counts in means. Benchmarks beyond the paper's count only where there are no others.
        benchmark: What its variants share: only one of them counts in means. "" is the task's own name.
        sources: Where its data are published.
        published_size: Questions of the published split that papers' figures are over; another number is noted in
            results and report.
        other_sizes: Further numbers of questions that are complete, as of other releases.
        releases: What the files with `published_size` and each of `other_sizes` are called, where rows must say which.
        rules: By which of several rules it is scored, where there are several; rows of other rules are not compared.
        paper_column: The VisionZip paper's name of the benchmark, "" where it has none.
        paper_note: How the paper's figure is made otherwise, or "".
        is_judged: Whether only a judge can score its answers (`JudgedTask`).
        reads_text: Whether its questions are about text in the picture; or the types that are (`question_types`); None
            where that is not known.
        default_data_root: Where its files are if no flag says otherwise.
        own_file: Of a file of one's own (`llava.eval.tasks.own_file`) what makes the task again; None of a benchmark.
    """

    name: ClassVar[str] = ""
    description: ClassVar[str] = ""
    max_new_tokens: ClassVar[int] = 64
    main_score: ClassVar[str] = "accuracy"
    scale: ClassVar[str] = SHARE
    has_answers: ClassVar[bool] = True
    needs_image: ClassVar[bool] = False
    video_frames: ClassVar[int | None] = None
    in_means: ClassVar[bool] = True
    benchmark: ClassVar[str] = ""
    sources: ClassVar[tuple[str, ...]] = ()
    published_size: ClassVar[int | None] = None
    other_sizes: ClassVar[tuple[int, ...]] = ()
    releases: ClassVar[tuple[str, ...]] = ()
    rules: ClassVar[str] = ""
    paper_column: ClassVar[str] = ""
    paper_note: ClassVar[str] = ""
    is_judged: ClassVar[bool] = False
    reads_text: ClassVar[bool | tuple[str, ...] | None] = None
    default_data_root: ClassVar[Path] = Path("playground/data/eval")
    own_file: ClassVar[Mapping[str, str] | None] = None

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
        """What an answer earns: between 0 and 1, or points. One that cannot be parsed earns nothing."""
        prediction = self.parse(text)
        return float(prediction != "" and prediction == self.parse(sample.answer))

    def earned(
        self, samples: Sequence[Sample], texts: Mapping[str, str], grades: Grades | None = None
    ) -> dict[str, float]:
        """What each sample's answer earns, by sample id; nothing where there is no answer.

        Args:
            samples: The samples.
            texts: What the model said, by sample id.
            grades: The judge's; for judged tasks.
        """
        return {s.sample_id: self._earns(s, texts[s.sample_id]) if s.sample_id in texts else 0.0 for s in samples}

    def _earns(self, sample: Sample, text: str) -> float:
        earned = self.is_correct(sample, text)
        if not isinstance(earned, int | float) or not math.isfinite(earned):
            raise ValueError(
                f"{type(self).__name__}.is_correct gives {earned!r} for sample {sample.sample_id}, no number"
            )
        return float(earned)

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Scores of a run. A task that overrides this with another main score than a mean overrides `parts` too.

        Args:
            samples: Every sample that counts in the denominator.
            texts: What the model said, by sample id; a sample without an answer earns nothing.

        Returns:
            The main score, the mean of what the answers earn; and `<main score>_by_group` where samples have groups.

        Raises:
            ValueError: There is no sample.
        """
        earned = self.earned(samples, texts)
        scores: Scores = {self.main_score: mean(some(earned.values()))}
        by_group = mean_by_group((sample.group, earned[sample.sample_id]) for sample in samples if sample.group)
        if by_group:
            scores[f"{self.main_score}_by_group"] = by_group
        return scores

    def parts(self, samples: Sequence[Sample], texts: Mapping[str, str], grades: Grades | None = None) -> ScoreParts:
        """The main score as a function of sums over questions, for intervals.

        Args:
            samples: Every sample that counts.
            texts: What the model said, by sample id.
            grades: The judge's; for judged tasks.

        Raises:
            ValueError: There are no samples; or `score` is no mean, and the task has no `parts` of its own.
        """
        earned = self.earned(samples, texts)
        groups = [sample.image_names for sample in samples]
        parts = ScoreParts.collect(groups, ([earned[sample.sample_id], 1.0] for sample in samples), mean_of_sums)
        own = self.score(samples, texts).get(self.main_score)
        if not isinstance(own, float | int) or abs(parts.total - own) > 1e-6 * max(1.0, abs(own)):
            raise ValueError(
                f"the {self.main_score} of {self.name} is {own}, and its answers earn {parts.total} in the mean: "
                f"give {type(self).__name__} a method `parts` that takes this score apart"
            )
        return parts

    def size_note(self, samples: Sequence[Sample]) -> str | None:
        """A line that says how many rows are there and should be, or None if that is right or not known."""
        return self.facts().size_note(self.name, len(samples))

    def question_types(self, sample: Sample) -> Mapping[str, Sequence[str]]:
        """What kinds of question a sample is, by the name of what sorts them; by default its group, as `type`."""
        return {"type": [sample.group]} if sample.group else {}

    def object_share(self, sample: Sample) -> float | None:
        """How much of the picture the object asked about covers, between 0 and 1; None where it is not known."""
        return sample.details.get("object_share")

    def write_submission(self, samples: Sequence[Sample], texts: Mapping[str, str], folder: Path) -> Path | None:
        """Writes the file that the benchmark's server takes.

        Returns:
            Its path, or None if the benchmark has no server.
        """
        return None

    @classmethod
    def facts(cls) -> TaskFacts:
        """What rows of results say of the task.

        Raises:
            ValueError: Its scale is neither `SHARE` nor `POINTS`, or there is not one release a size.
        """
        return TaskFacts(
            scale=cls.scale,
            paper_column=cls.paper_column,
            paper_note=cls.paper_note,
            benchmark=cls.benchmark,
            needs_image=cls.needs_image,
            in_means=cls.in_means,
            judged=cls.is_judged,
            published_sizes=(cls.published_size, *cls.other_sizes) if cls.published_size is not None else (),
            releases=cls.releases,
        )


TASKS: Registry[type[Task]] = Registry("task", builtin=[f"llava.eval.tasks.{module}" for module in _MODULES.split()])
TaskClass = TypeVar("TaskClass", bound=type[Task])


def register_task(task: TaskClass) -> TaskClass:
    """Class decorator: makes a task known under its `name`.

    Raises:
        ValueError: The name is empty, malformed or taken, or an attribute has a wrong type or value.
    """
    if not task.name:
        raise ValueError(f"{task.__name__} has no name; set its attribute `name`")
    if not _NAME.fullmatch(task.name) or task.name == _ALL:
        raise ValueError(
            f"{task.__name__}.name is {task.name!r}: folders are named after it, so it must be of letters, digits, _, "
            f"- and ., begin with a letter or digit, and not be {_ALL!r}"
        )
    if type(task.max_new_tokens) is not int or task.max_new_tokens < 1:
        raise ValueError(f"{task.__name__}.max_new_tokens is {task.max_new_tokens!r}, not a whole number above 0")
    try:
        facts_of({"task": task.name, FIELD: task.facts().to_json()})  # what a report will read
    except (TypeError, ValueError) as error:
        raise ValueError(f"{task.__name__}: {error}") from error
    TASKS.register(task.name, task, depth=2)
    return task


def get_task(name: str) -> Task:
    """Makes the task of that name.

    Raises:
        ValueError: There is none.
    """
    return TASKS.get(name)()


def available_tasks() -> list[str]:
    """Names of all tasks, sorted."""
    return TASKS.names()
