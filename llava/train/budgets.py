"""The compression of each step: tokens that fall over the run, tokens drawn anew for each step, or both.

Every budget is a function of the flags, the seed and the number of the optimizer step. So it is the same on every
process, in every micro-batch of a step, and after a resume.
"""

from __future__ import annotations

import hashlib
import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from llava.model.configuration import CompressionConfig
from llava.model.image_rules import ImageRules
from llava.model.multimodal_compressor import compressor_of
from llava.model.tuned_range import TunedRange, is_like
from llava.train.flags import TrainingFlags

# Of `--compression_draw`: what follows a comma is an item, unless it is an option of the budget before.
_ITEM_FOLLOWS = re.compile(r",(?=\s*(?:\d|none\b|[A-Za-z_][\w.-]*:))")
_NUMBERS = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")
_DRAW_EXAMPLES = "'20-98', '20,49,98' or 'visionzip:17+3,visionzip:41+8'"

_Item: TypeAlias = tuple[int, int] | CompressionConfig | None


@dataclass(frozen=True)
class Rung:
    """A budget and its tokens.

    Attributes:
        tokens: Visual tokens of a tile.
        budget: None for all tokens.
    """

    tokens: int
    budget: CompressionConfig | None


@dataclass(frozen=True)
class Fall:
    """Tokens that fall over the first part of a run.

    Attributes:
        curve: `linear`, `cosine`, or `steps`: halved until the end is reached, each level for an equal part.
        share: The part of all steps over which they fall.
        rungs: Every budget that the method can have on the way, from the end (the fewest tokens) to the start.
    """

    curve: str
    share: float
    rungs: tuple[Rung, ...]

    def at(self, step: int, max_steps: int) -> Rung:
        """The budget of a step; where the method cannot have a number of tokens, the next larger one.

        Args:
            step: From 0.
            max_steps: Of the run.
        """
        passed = step / (self.share * max_steps)
        if passed >= 1:
            return self.rungs[0]
        return self.rungs[bisect_left([rung.tokens for rung in self.rungs], round(self._wanted(passed)))]

    def _wanted(self, passed: float) -> float:
        """Tokens after a part of the fall, 0 <= passed < 1."""
        end, start = self.rungs[0].tokens, self.rungs[-1].tokens
        if self.curve == "steps":
            levels = math.ceil(math.log2(start / end))
            return max(start / 2 ** int(passed * levels), end)
        left = (1 + math.cos(math.pi * passed)) / 2 if self.curve == "cosine" else 1 - passed
        return end + (start - end) * left


@dataclass(frozen=True)
class BudgetPlan:
    """Which budget each optimizer step has.

    Attributes:
        final: What the run ends with: validated under, and saved.
        fall: None where tokens do not fall.
        drawn: What is drawn from: one of these, and of that one budget, each as likely as another. Empty without.
        seed: Of the draws.
    """

    final: Rung
    fall: Fall | None = None
    drawn: tuple[tuple[Rung, ...], ...] = ()
    seed: int = 0

    def at(self, step: int, max_steps: int) -> Rung:
        """The budget of a step; of a drawn one and one that falls, that with more tokens.

        Args:
            step: From 0.
            max_steps: Of the run.
        """
        chosen = [] if self.fall is None else [self.fall.at(step, max_steps)]
        if self.drawn:
            chosen.append(self._draw(step))
        return max(chosen, key=lambda rung: rung.tokens)

    def _draw(self, step: int) -> Rung:
        """By a hash, as subsets are drawn: nothing depends on a random generator's version."""
        digest = hashlib.sha256(f"{self.seed}:{step}".encode()).digest()
        group = self.drawn[int.from_bytes(digest[:8]) % len(self.drawn)]
        return group[int.from_bytes(digest[8:16]) % len(group)]

    @property
    def rungs(self) -> list[Rung]:
        """All budgets that a step may have, from few tokens to many."""
        found = {self.final, *(self.fall.rungs if self.fall is not None else ()), *sum(self.drawn, ())}
        return sorted(found, key=lambda rung: rung.tokens)

    @property
    def tuned_for(self) -> TunedRange | None:
        """What the result serves, for its config; None where it is the final budget alone."""
        budgets = [rung.budget for group in self.drawn for rung in group if rung.budget is not None]
        budgets.sort(key=lambda budget: budget.num_tokens)
        return TunedRange(budgets[0], budgets[-1]) if budgets else None


@dataclass(frozen=True)
class MostVisualTokens:
    """Counts an image's tokens where it has the most of several budgets, so that all of them see the same samples.

    Attributes:
        rules: Of the model.
        budgets: None for all tokens.
    """

    rules: ImageRules
    budgets: tuple[CompressionConfig | None, ...]

    def __call__(self, image_sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Visual tokens of the images of a sample, of these (w, h)."""
        several, count = len(image_sizes) > 1, self.rules.num_tokens
        return [max(count(size, each, beside_others=several) for each in self.budgets) for size in image_sizes]


@contextmanager
def compressed_to(model: Any, budget: CompressionConfig | None) -> Iterator[None]:
    """A model under another budget for a while, its config as before afterwards."""
    before = getattr(model.config, "compression", None)
    model.set_compression(budget)
    try:
        yield
    finally:
        model.config.compression = before


# ----- From the flags ------------------------------------------------------------


def make_plan(given: TrainingFlags, final: CompressionConfig | None, rules: ImageRules, seed: int) -> BudgetPlan | None:
    """The plan that the flags ask for; None where every step has the final budget.

    Args:
        given: The flags, each checked by itself.
        final: Of `--compression`, or the checkpoint's; None for all tokens.
        rules: Of the model.
        seed: Of the run.

    Raises:
        ValueError: There is no compression to tune for, or a budget is of another method, does not fit the model, or is
            on the wrong side of the final one. Names the flag.
    """
    flags = [name for name in ("compression_schedule", "compression_draw") if getattr(given, name) is not None]
    if not flags:
        return None
    if final is None:
        raise ValueError(f"--{flags[0]} {getattr(given, flags[0])}: give --compression, the budget of the result")
    end = _rung(final, rules)
    drawn: tuple[tuple[Rung, ...], ...] = ()
    if given.compression_draw is not None:
        flag = f"--compression_draw {given.compression_draw}"
        drawn = tuple(_group(item, final, rules, flag) for item in parse_draw(given.compression_draw))
        own = sorted({rung for group in drawn for rung in group if rung.budget is not None}, key=lambda r: r.tokens)
        if not own or not own[0].tokens <= end.tokens <= own[-1].tokens:
            raise ValueError(f"{flag}: --compression {final} is not within it; choose one that is, as the final budget")
        end = own[0]
    fall = None if given.compression_schedule is None else _fall(given, end, final, rules)
    return BudgetPlan(_rung(final, rules), fall, drawn, seed)


def parse_draw(text: str) -> list[_Item]:
    """Reads `--compression_draw`: budgets, totals and ranges of totals, after commas.

    Returns:
        A range of totals (a total has both ends alike), a budget, or None for all tokens.

    Raises:
        ValueError: The text is not of this form; names the flag.
    """
    items: list[_Item] = []
    for part in map(str.strip, _ITEM_FOLLOWS.split(text)):
        numbers = _NUMBERS.fullmatch(part)
        try:
            items.append(_ends(numbers) if numbers else CompressionConfig.parse(part))
        except ValueError as error:
            raise ValueError(f"--compression_draw {text}: {error}; totals and ranges are {_DRAW_EXAMPLES}") from error
    return items


def _ends(numbers: re.Match[str]) -> tuple[int, int]:
    low = int(numbers[1])
    high = int(numbers[2] or low)
    if not 1 <= low <= high:
        raise ValueError(f"{numbers[0]} is no range of totals from few to many")
    return low, high


def _group(item: _Item, final: CompressionConfig, rules: ImageRules, flag: str) -> tuple[Rung, ...]:
    if not isinstance(item, tuple):
        return (_named(item, final, rules, flag),)
    low, high = item
    if low == high:
        return (_named(final.with_total(low), final, rules, flag),)
    found = _between(final, low, high, rules)
    if not found:
        raise ValueError(f"{flag}: {final.method} can have none of the totals {low} to {high}")
    return found


def _named(budget: CompressionConfig | None, final: CompressionConfig, rules: ImageRules, flag: str) -> Rung:
    if budget is not None and not is_like(budget, final):
        raise ValueError(f"{flag}: {budget} is not of the method and options of --compression {final}; choose one")
    try:
        rules.check(budget)
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from error
    return _rung(budget, rules)


def _between(like: CompressionConfig, low: int, high: int, rules: ImageRules) -> tuple[Rung, ...]:
    """What a method can have from one total to another; some take few numbers only."""
    found = []
    for total in range(low, min(high, rules.num_patches + 1) + 1):
        try:
            budget = like.with_total(total)
            rules.check(budget)
        except ValueError:
            continue
        found.append(_rung(budget, rules))
    return tuple(found)


def _fall(given: TrainingFlags, end: Rung, final: CompressionConfig, rules: ImageRules) -> Fall:
    text = given.compression_start or "none"
    flag = f"--compression_start {text}"
    try:
        budget = final.with_total(int(text)) if text.isascii() and text.isdigit() else CompressionConfig.parse(text)
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from error
    start = _named(budget, final, rules, flag)
    if start.tokens <= end.tokens:
        raise ValueError(
            f"{flag} has {start.tokens} tokens, and the run ends with {end.tokens} ({end.budget}); begin with more"
        )
    assert end.budget is not None
    on_the_way = _between(final, end.budget.num_tokens + 1, start.tokens, rules)
    rungs = {end.tokens: end, **{rung.tokens: rung for rung in on_the_way if end.tokens < rung.tokens < start.tokens}}
    assert given.compression_schedule is not None
    return Fall(given.compression_schedule, given.compression_share, (*rungs.values(), start))


def _rung(budget: CompressionConfig | None, rules: ImageRules) -> Rung:
    if budget is None:
        return Rung(rules.tokens_of_whole_tile, None)
    return Rung(compressor_of(budget).num_tokens(budget, rules.tile_shape), budget)
