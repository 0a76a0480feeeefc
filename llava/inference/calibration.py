"""The threshold of an adaptive budget with which images keep so many tokens on average.

Shapes: T tiles, M = the most tokens that a tile may keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from llava.images.source import ImageSource
from llava.inference.inference import Inference
from llava.model.adaptive_budget import AdaptiveK, AdaptiveRule
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.adaptive import count_kept, rank_tiles

_MOST_DIGITS = 17  # tell any two floats apart
_ANY_THRESHOLD = 0.5  # where a budget needs one and nothing looks at it


@dataclass(frozen=True)
class Calibration:
    """What a calibration has found.

    Attributes:
        budget: With the threshold.
        wanted: Tokens that a tile was to keep on average.
        per_tile: What each tile keeps.
        per_image: What each image keeps.
    """

    budget: CompressionConfig
    wanted: int
    per_tile: tuple[int, ...]
    per_image: tuple[int, ...]


def adaptive_budget(
    budget: CompressionConfig, rule: AdaptiveRule, most: int, floor: int, threshold: float = _ANY_THRESHOLD
) -> CompressionConfig:
    """A budget whose number is a mean, as an adaptive one.

    Args:
        budget: Fixed, of one stage; its number is the wanted mean.
        rule: Says how many tokens a tile keeps.
        most: Tokens of a tile.
        floor: Tokens of a tile.
        threshold: Of the rule.

    Raises:
        ValueError: The budget is adaptive, shares tiles unevenly or has a stage inside the language model; or the mean
            is not between floor and most, or these are one number.
    """
    wanted = budget.num_tokens
    if budget.adaptive is not None:
        raise ValueError(f"compression {budget}: give a fixed budget, whose number is the wanted mean")
    if not floor <= wanted <= most:
        raise ValueError(
            f"compression {budget}: the mean of {wanted} tokens a tile is not between the floor {floor} and the "
            f"most {most}"
        )
    if floor == most:
        raise ValueError(
            f"compression {budget}: floor and most are both {most}, so no picture has a say; lower the one or raise "
            "the other"
        )
    return replace(budget.with_total(most), adaptive=AdaptiveK(rule, threshold, floor))


def calibrate(
    inference: Inference,
    budget: CompressionConfig,
    rule: AdaptiveRule,
    images: Iterable[ImageSource],
    *,
    most: int,
    floor: int = 1,
    batch_size: int = 8,
) -> Calibration:
    """Finds the threshold.

    Args:
        inference: The model; its own compression is put back afterwards.
        budget: Whose number is the wanted mean of a tile's tokens.
        rule: Says how many tokens a tile keeps.
        images: At least one.
        most: Tokens of a tile.
        floor: Tokens of a tile.
        batch_size: Images that are encoded at a time.

    Raises:
        ValueError: As `adaptive_budget` raises, the model cannot have the budget, or there is no image.
        UnreadableImageError: An image cannot be read.
    """
    model, before = inference.model, inference.model.compression
    asked = adaptive_budget(budget, rule, most, floor)
    try:
        model.set_compression(asked)
        waiting, found = iter(images), []
        while part := list(islice(waiting, batch_size)):
            found.append(_levels(inference, rule, most, part))
    finally:
        model.set_compression(before)
    if not found:
        raise ValueError("there is no image to calibrate on")
    levels = torch.cat([part for part, _ in found])
    counts = [count for _, part in found for count in part]
    threshold = threshold_for(levels, budget.num_tokens, floor)
    chosen = adaptive_budget(budget, rule, most, floor, threshold)
    assert chosen.adaptive is not None
    kept = count_kept(levels, chosen.adaptive)
    per_image = tuple(int(tiles.sum()) for tiles in kept.split(counts))
    return Calibration(chosen, budget.num_tokens, tuple(kept.tolist()), per_image)


@torch.inference_mode()
def _levels(
    inference: Inference, rule: AdaptiveRule, most: int, images: Sequence[ImageSource]
) -> tuple[Tensor, list[int]]:
    """Levels (T, M) of the tiles of some images, on the CPU, and the tiles of each image."""
    opened: list[Any] = inference.open(images)
    pixels = inference.preprocess(opened)
    bound, features = inference.model.selection(pixels, [image.size for image in opened])
    levels = rank_tiles(bound, features, rule, most).levels.cpu()
    return levels, [1 if image.dim() == 3 else len(image) for image in pixels]


def threshold_for(levels: Tensor, wanted: float, floor: int) -> float:
    """The threshold, with few digits, above which so many levels of a tile are on average.

    Equal levels are above it together or not at all; then the nearer of the two means is taken.

    Args:
        levels: (T, M), fp32, not rising along a row.
        wanted: Between floor and M.
        floor: Levels of a row that count in any case.
    """
    open_levels = levels[:, floor:].flatten().sort(descending=True).values
    number = round((wanted - floor) * len(levels))
    if number == len(open_levels):
        return _between(0.0, float(open_levels[-1])) if number and open_levels[-1] > 0 else 0.0
    level = float(open_levels[number])  # the first that shall not be above the threshold
    above, with_equals = (int((open_levels > level).sum()), int((open_levels >= level).sum()))
    if level > 0 and with_equals - number < number - above:
        rest = open_levels[with_equals:]
        return _between(float(rest[0]) if len(rest) else 0.0, level)
    if not above:  # no more than the floor
        return _between(level, 2 * level if level >= 1 else min(2 * level, 1.0)) if level else 0.0
    return _between(level, float(open_levels[above - 1]))


def _between(low: float, high: float) -> float:
    """The number with the fewest digits that fp32 puts at `low` or above it, and below `high`."""
    for digits in range(1, _MOST_DIGITS):
        value = float(f"{(low + high) / 2:.{digits}g}")
        if low <= float(torch.tensor(value, dtype=torch.float32)) < high:
            return value
    return low
