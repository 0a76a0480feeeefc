"""The budget to take: chosen on one half of the pictures, and looked at once on the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llava.eval.budget.halves import Ladder, Rung
from llava.eval.compare.table import Figure
from llava.results.bootstrap import fewest_groups
from llava.results.words import tokens_text


@dataclass(frozen=True)
class Wish:
    """What a budget must do.

    Attributes:
        keep: Share of the score with all tokens that the lower end of the interval must hold; None: no such wish.
        milliseconds: To the first token at most; None: no such wish.
    """

    keep: float | None = None
    milliseconds: float | None = None

    @property
    def fewest_pictures(self) -> int:
        """On how many of a half all tokens must earn: were not one worse on fewer, too much could be lost in truth."""
        return 1 if self.keep is None else fewest_groups(self.keep)


@dataclass(frozen=True)
class Advice:
    """What is advised.

    Attributes:
        rung: The budget to take, or None.
        chosen: The budget that the first half gave, whether the other confirmed it or not; None if it gave none.
        confirmed: Whether the other half holds what was wanted; None where it is not asked that.
        lines: In words.
    """

    rung: Rung | None
    chosen: Rung | None
    confirmed: bool | None
    lines: tuple[str, ...]


def advise(ladder: Ladder, wish: Wish) -> Advice:
    """Finds the smallest budget that keeps enough, or the best one that is fast enough.

    Args:
        ladder: The budgets, all tokens first.
        wish: At least one of its two.
    """
    limit = wish.milliseconds
    fast = [rung for rung in ladder.rungs if limit is None or _within(rung, limit)]
    if not fast:
        return Advice(None, None, None, (_too_slow(ladder, limit),))
    if wish.keep is None:
        return _best(fast, limit)
    return _smallest(fast, ladder, wish, wish.keep)


def _best(fast: Sequence[Rung], limit: float | None) -> Advice:
    """The budget that keeps most; of equals the smaller."""
    best = max(fast, key=lambda rung: (rung.chosen_on.value, -rung.tokens))
    lines = [f"{best.name} keeps most within {limit:g} ms: it takes {best.milliseconds:.1f} ms to the first token"]
    if best.entry.budget is not None:
        lines.append(
            f"it was chosen on one half of the pictures; on the other half it keeps {shown(best.confirmed_on)} of what "
            "all tokens give"
        )
    return Advice(best, best, None, tuple(lines))


def _smallest(fast: Sequence[Rung], ladder: Ladder, wish: Wish, keep: float) -> Advice:
    """The smallest budget whose interval lies above what is wanted, on one half and then on the other."""
    wanted, within = 100 * keep, "" if wish.milliseconds is None else f" within {wish.milliseconds:g} ms"
    if min(ladder.telling) < wish.fewest_pictures:
        return Advice(None, None, None, (_too_few(ladder, wish.fewest_pictures, keep),))
    holding = [rung for rung in fast if rung.entry.budget is not None and _holds(rung.chosen_on, wanted)]
    if not holding:
        whole = next((rung for rung in fast if rung.entry.budget is None), None)
        line = f"no budget of the ladder{within} holds {wanted:g} % on the half that is chosen on"
        more = "take all tokens, larger --budgets, or other --methods" if whole else "raise --ms or lower --keep"
        return Advice(whole, None, None, (f"{line}: {more}",))
    chosen = min(holding, key=lambda rung: (rung.tokens, -rung.chosen_on.value))
    confirmed = _holds(chosen.confirmed_on, wanted)
    verdict = "confirmed" if confirmed else "NOT confirmed"
    lines = [
        f"{chosen.name} ({tokens_text(chosen.tokens)} tokens) is the smallest{within} whose lower bound holds "
        f"{wanted:g} %: {shown(chosen.chosen_on)} on the half of the pictures that it was chosen on",
        f"{verdict} on the other half: {shown(chosen.confirmed_on)}",
    ]
    if not confirmed:
        lines.append("ask more questions, lower --keep, or offer larger --budgets")
    return Advice(chosen if confirmed else None, chosen, confirmed, tuple(lines))


def _too_few(ladder: Ladder, fewest: int, keep: float) -> str:
    rarest = max(every / telling for every, telling in zip(ladder.pictures, ladder.telling, strict=True))
    return (
        f"{' and '.join(map(str, ladder.pictures))} pictures in the two halves are too few: all tokens get something "
        f"right on {' and '.join(map(str, ladder.telling))} of them, and even without one loss among fewer than "
        f"{fewest}, {keep:g} would not be shown. Ask about {math.ceil(2 * fewest * rarest)} pictures, or lower --keep"
    )


def _too_slow(ladder: Ladder, limit: float | None) -> str:
    measured = [(rung.milliseconds, rung.name) for rung in ladder.rungs if rung.milliseconds is not None]
    if not measured:
        return "nothing was measured, for no question has a picture"
    quickest, name = min(measured)
    return f"no budget is within {limit:g} ms: the quickest is {name}, {quickest:.1f} ms"


def shown(figure: Figure) -> str:
    """`97.1 % [95.8, 98.3]`."""
    return f"{figure.value:.1f} % [{figure.low:.1f}, {figure.high:.1f}]"


def _within(rung: Rung, limit: float) -> bool:
    return rung.milliseconds is not None and rung.milliseconds <= limit


def _holds(figure: Figure, wanted: float) -> bool:
    return figure.low is not None and figure.low >= wanted
