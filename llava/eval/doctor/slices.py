"""Questions that have something in common: their type, the size of the object, whether there is text to be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from llava.eval.compare.table import Figure
from llava.eval.doctor.diagnosis import Slice
from llava.eval.report.flips import KINDS, Earned, Flip
from llava.eval.tasks import Sample, Task
from llava.results.bootstrap import paired_bootstrap

SIZE = "size of the object"
TEXT = "text in the picture"

# COCO's small, medium and large (below 32 x 32 pixels, below 96 x 96) as shares of its usual picture, 640 x 480.
_SMALL, _MEDIUM = 32 * 32 / (640 * 480), 96 * 96 / (640 * 480)
SIZES = ("small (below 0.33 %)", "medium (0.33 to 3 %)", "large (3 % and more)")


def size_of(share: float) -> str:
    """COCO's name for how much of a picture an object covers."""
    return SIZES[(share >= _SMALL) + (share >= _MEDIUM)]


def sorts_of(task: Task, sample: Sample, sizes: Mapping[str, float]) -> dict[str, list[str]]:
    """What a question has in common with others, by what sorts them.

    Args:
        task: The benchmark.
        sample: The question.
        sizes: Shares of the picture by sample id, for questions of which the task does not know it.
    """
    types = {sort: list(values) for sort, values in task.question_types(sample).items()}
    found = dict(types)
    share = task.object_share(sample)
    share = sizes.get(sample.sample_id) if share is None else share
    if share is not None:
        found[SIZE] = [size_of(share)]
    if task.reads_text is not None:
        named = task.reads_text if isinstance(task.reads_text, tuple) else ()
        reads = task.reads_text is True or any(value in named for values in types.values() for value in values)
        found[TEXT] = ["is to be read" if reads else "is not"]
    return found


def make_slice(
    sort: str,
    value: str,
    samples: Sequence[Sample],
    flips: Mapping[str, Flip],
    earned: tuple[Earned, Earned],
    resamples: int,
) -> Slice | None:
    """Some questions before and after; None where not one of them is graded on both sides.

    Args:
        sort: What sorts the questions.
        value: What these have in common.
        samples: Those that both sides have answered.
        flips: By sample id, those whose answers differ.
        earned: What the answers earned with all tokens and with the budget.
        resamples: Of the interval; 0 for none.
    """
    before, after = ({s.sample_id: side[s.sample_id] for s in samples} for side in earned)
    first = {key: value for key, value in before.items() if value is not None and after[key] is not None}
    second = {key: value for key, value in after.items() if value is not None and key in first}
    if not first:
        return None
    counts = Counter(flips[key].kind for key in first if key in flips)
    means = sum(first.values()) / len(first), sum(second.values()) / len(first)
    change = Figure(means[1] - means[0])
    groups = {sample.sample_id: sample.image_names for sample in samples if sample.sample_id in first}
    pictures = len(set(groups.values()))
    if resamples and pictures > 1:  # draws of one picture are all alike
        drawn = paired_bootstrap(second, first, groups=groups, resamples=resamples)
        change = Figure(drawn.difference, drawn.low, drawn.high)
    lost, gained, reworded = (counts[kind] for kind in KINDS)
    return Slice(sort, value, len(first), lost, gained, reworded, means[0], means[1], change, pictures)


def all_slices(
    task: Task,
    samples: Sequence[Sample],
    flips: Sequence[Flip],
    earned: tuple[Earned, Earned],
    resamples: int,
    sizes: Mapping[str, float],
) -> list[Slice]:
    """A slice for each value of each sort that the questions have; sorts with one value say nothing and stay out."""
    by_sort: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        for sort, values in sorts_of(task, sample, sizes).items():
            for value in dict.fromkeys(values):
                by_sort.setdefault(sort, {}).setdefault(value, []).append(sample)
    changed = {flip.sample.sample_id: flip for flip in flips}
    found = []
    for sort, by_value in by_sort.items():
        order = SIZES if sort == SIZE else sorted(by_value)
        slices = [
            make_slice(sort, value, by_value[value], changed, earned, resamples) for value in order if value in by_value
        ]
        found += [each for each in slices if each is not None] if len(by_value) > 1 else []
    return found
