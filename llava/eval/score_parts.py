"""A task's main score as a function of sums over questions, so that it can be bootstrapped.

Questions that are not independent form a group and are drawn together: those about one image, and MMBench's rotations
of one question. Each task's score of the sums over all groups is the score that the task itself gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava.eval.metrics import mmbench, mme, pope
from llava.eval.tasks import EmbeddedImage, JudgedTask, Sample, Task
from llava.eval.tasks.mmbench import MmBench
from llava.eval.tasks.mme import Mme
from llava.eval.tasks.pope import Pope

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class ScoreParts:
    """A score taken apart.

    Attributes:
        groups: Names of the groups, sorted; G of them.
        values: (G, V), what each group adds to V sums.
        score: Maps sums (R, V) to R scores, on the scale of the task's main score.
    """

    groups: tuple[str, ...]
    values: Sums
    score: Callable[[Sums], Sums]

    @property
    def total(self) -> float:
        """The score of all questions."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(self.score(self.values.sum(axis=0, keepdims=True))[0])


def take_apart(
    task: Task,
    samples: Sequence[Sample],
    texts: Mapping[str, str],
    grades: Mapping[str, Sequence[Any | None]] | None = None,
) -> ScoreParts:
    """Takes the main score of a run apart.

    Args:
        task: The benchmark.
        samples: What counts.
        texts: The model's answers by sample id.
        grades: The judge's, by sample id, one a run; for judged tasks.

    Raises:
        ValueError: There are no samples, or the task is judged and there are no grades.
    """
    if not samples:
        raise ValueError(f"{task.name}: there is no question to score")
    if isinstance(task, JudgedTask):
        return _judged(task, samples, grades or {})
    if isinstance(task, Pope):
        return _pope(samples, texts)
    if isinstance(task, Mme):
        return _mme(samples, texts)
    if isinstance(task, MmBench):
        return _mmbench(task, samples, texts)
    if task.main_score != "accuracy":
        raise ValueError(f"{task.name}: its {task.main_score} is not known as a function of sums")
    earned = (task.is_correct(s, texts[s.sample_id]) if s.sample_id in texts else 0.0 for s in samples)
    return _collect(samples, ([value, 1.0] for value in earned), _mean)


def mean_of(parts: Sequence[ScoreParts]) -> ScoreParts:
    """The mean of the scores of several runs over the same questions.

    Raises:
        ValueError: They are not over the same questions.
    """
    if any(own.groups != parts[0].groups for own in parts):
        raise ValueError("the runs are not over the same questions")
    ends = np.cumsum([own.values.shape[1] for own in parts])[:-1]

    def score(sums: Sums) -> Sums:
        chunks = np.split(sums, ends, axis=1)
        return np.asarray(np.mean([own.score(chunk) for own, chunk in zip(parts, chunks, strict=True)], axis=0))

    return ScoreParts(parts[0].groups, np.concatenate([own.values for own in parts], axis=1), score)


def _mean(sums: Sums) -> Sums:
    return sums[:, 0] / sums[:, 1]


def _mmbench(task: MmBench, samples: Sequence[Sample], texts: Mapping[str, str]) -> ScoreParts:
    rotations: dict[int, list[tuple[int, float]]] = {}
    for sample in samples:
        index = int(sample.sample_id)
        hit = task.is_correct(sample, texts.get(sample.sample_id, ""))
        rotations.setdefault(index % mmbench.ROTATION, []).append((index, hit))
    # As in mmbench_scores: a group whose own question is not there does not count.
    known = {index: group for index, group in rotations.items() if any(number == index for number, _ in group)}
    names = tuple(sorted(map(str, known)))
    values = [[float(all(hit for _, hit in known[int(name)])), 1.0] for name in names]
    return ScoreParts(names, np.array(values), _mean)


def _pope(samples: Sequence[Sample], texts: Mapping[str, str]) -> ScoreParts:
    splits = sorted({sample.group for sample in samples})

    def counts(sample: Sample) -> list[float]:
        wrong = "no" if sample.answer == "yes" else "yes"
        says_yes, is_yes = pope.says_yes(texts.get(sample.sample_id, wrong)), sample.answer == "yes"
        own = [float(says_yes and is_yes), float(says_yes and not is_yes), float(is_yes and not says_yes)]
        return [value * (sample.group == split) for split in splits for value in own]

    def mean_f1(sums: Sums) -> Sums:
        hits, false_yes, false_no = (sums[:, start::3] for start in range(3))
        # Without a hit F1 is 0, as the scorer has it.
        f1 = np.where(hits > 0, 2 * hits / np.maximum(2 * hits + false_yes + false_no, 1), 0.0)
        return np.asarray(f1.mean(axis=1))

    return _collect(samples, map(counts, samples), mean_f1)


def _mme(samples: Sequence[Sample], texts: Mapping[str, str]) -> ScoreParts:
    categories = sorted({sample.group for sample in samples})
    pairs: dict[str, list[bool]] = {}
    for sample in samples:
        correct = mme.is_correct(texts.get(sample.sample_id, ""), sample.answer)
        pairs.setdefault(f"{sample.group}\n{sample.details['image']}", []).append(correct)
    names = tuple(sorted(pairs))
    values = np.zeros((len(names), 4 * len(categories)))
    for row, name in enumerate(names):
        right = pairs[name]
        start = 4 * categories.index(name.partition("\n")[0])
        values[row, start : start + 4] = [sum(right), len(right), right == [True, True], 1.0]

    def total(sums: Sums) -> Sums:
        right, asked, both, images = (sums[:, start::4] for start in range(4))
        # A draw may have left a small category out.
        return np.asarray(100 * (right / np.maximum(asked, 1) + both / np.maximum(images, 1)).sum(axis=1))

    return ScoreParts(names, values, total)


def _judged(task: JudgedTask, samples: Sequence[Sample], grades: Mapping[str, Sequence[Any | None]]) -> ScoreParts:
    runs = max((len(grades.get(sample.sample_id, ())) for sample in samples), default=0)
    if not runs:
        raise ValueError(f"{task.name}: there are no grades; run python -m llava.eval.judge")

    def sums_of(sample: Sample) -> list[float]:
        row: list[float] = []
        for run in range(runs):
            listed = grades.get(sample.sample_id, ())
            grade = listed[run] if run < len(listed) else None
            # A pair is (reference, model); a single grade is relative to 1.
            row += [0.0, 0.0] if grade is None else [grade[1], grade[0]] if isinstance(grade, list) else [grade, 1.0]
        return row

    def score(sums: Sums) -> Sums:
        return np.asarray(100 * (sums[:, 0::2] / sums[:, 1::2]).mean(axis=1))

    return _collect(samples, map(sums_of, samples), score)


def _collect(samples: Sequence[Sample], rows: Iterable[Sequence[float]], score: Callable[[Sums], Sums]) -> ScoreParts:
    """Adds up the rows of samples about the same images."""
    values = np.array(list(rows), dtype=np.float64)
    names, member = np.unique([_group(sample) for sample in samples], return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, member.reshape(-1), values)
    return ScoreParts(tuple(names.tolist()), sums, score)


def _group(sample: Sample) -> str:
    """What its images are called; a question without any stands alone."""
    named = [image.name if isinstance(image, EmbeddedImage) else str(image) for image in sample.images]
    return "\n".join(named) or f"question {sample.sample_id}"
