"""What plain down-sampling gets wrong: the questions on which a method has to show what it is good for.

The idea is VTC-Bench's (arXiv 2510.07143): of the questions that all tokens answer rightly, group A is what a picture
that is merely shrunk to as many tokens answers wrongly, group B what it answers rightly too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llava.eval.answer_sets import answers_of_row
from llava.eval.compare.table import Figure
from llava.eval.doctor.diagnosis import DownSampling, Group
from llava.eval.report.flips import Earned, earned_by
from llava.eval.results import Row
from llava.eval.tasks import Sample, Task
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.cells import check_grid
from llava.model.multimodal_compressor.types import TileShape
from llava.model.stages import inside_language_model
from llava.results.bootstrap import bootstrap_interval
from llava.results.rows import comparable
from llava.results.score_parts import ScoreParts

METHOD = "downsample"
_LEAST = 0.85  # of a budget's tokens: not every number makes a grid
_RIGHT = 0.5  # of what an answer can earn


def is_down_sampling(compression: str) -> bool:
    """Whether a row's budget is down-sampling and nothing else."""
    budget = CompressionConfig.parse(compression)
    return budget is not None and budget.method == METHOD and budget.then is None


def down_sampling_row(rows: Sequence[Row], row: Row) -> Row | None:
    """The down-sampling row with as many tokens as a row, or hardly fewer, that it can be compared with.

    Of a method inside the language model, the tokens are the mean of the rows that its layers read, as its name says.
    """
    inside = inside_language_model(CompressionConfig.parse(row["compression"]))
    most = row.get("tokens", 0) if inside is None else inside.num_tokens
    found = [
        other
        for other in rows
        if is_down_sampling(other["compression"]) and _LEAST * most <= other.get("tokens", 0) <= most
    ]
    return max((other for other in found if comparable(other, row)), key=lambda other: other["tokens"], default=None)


def down_sampling_budget(compression: str) -> str | None:
    """The down-sampling with as many tokens a tile as a budget, or the nearest below.

    None where there is none, and where the budget does not say its tokens a tile: inside the language model they are
    the whole image's, and an adaptive budget says only the most.
    """
    budget = CompressionConfig.parse(compression)
    if budget is None or inside_language_model(budget) is not None or budget.adaptive is not None:
        return None
    most = budget.num_tokens
    for tokens in range(most, math.ceil(_LEAST * most) - 1, -1):
        named = CompressionConfig(METHOD, tokens, 0)
        try:
            check_grid(named, TileShape((most, most), False, False))
        except ValueError:
            continue
        return str(named)
    return None


def read_down_sampling(folder: Path, task: Task, samples: Sequence[Sample], row: Row) -> Earned | None:
    """What the answers of a down-sampling row earned; None where they are not on disk."""
    answers = answers_of_row(folder, row)
    return None if answers is None else earned_by(task, answers, samples)


def beside(
    row: Row, samples: Sequence[Sample], earned: tuple[Earned, Earned], theirs: Earned, resamples: int
) -> DownSampling:
    """How a budget does on what down-sampling gets wrong, and on what it gets right.

    Args:
        row: The down-sampling row.
        samples: The questions that both sides have answered.
        earned: What the answers earned with all tokens and with the budget.
        theirs: What those of down-sampling did.
        resamples: Of the intervals; 0 for none.
    """
    rows, groups = [], []
    for sample in samples:
        values = [side.get(sample.sample_id) for side in (*earned, theirs)]
        if any(value is None for value in values):
            continue
        before, after, down = (value is not None and value >= _RIGHT for value in values)
        hard, easy = before and not down, before and down
        rows.append([float(value) for value in (hard and after, hard, easy and after, easy)])
        groups.append(sample.image_names)
    parts = ScoreParts.collect(groups, rows, lambda sums: sums[:, 0])
    hard_group, easy_group = (_group(parts, start, resamples) for start in (0, 2))
    return DownSampling(row["compression"], row["tokens"], hard_group, easy_group)


def _group(parts: ScoreParts, start: int, resamples: int) -> Group:
    right, asked = (int(value) for value in parts.values.sum(axis=0)[start : start + 2])
    if not asked:
        return Group(0, 0, None)
    ends: tuple[float | None, float | None] = (None, None)
    if resamples and len(parts.groups) > 1:
        low, high = bootstrap_interval(
            parts.values, lambda sums: np.asarray(sums[:, start] / sums[:, start + 1]), resamples=resamples
        )
        ends = (low, high)
    return Group(asked, right, Figure(right / asked, *ends))
