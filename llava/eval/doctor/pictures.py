"""Flipped questions with their pictures: a choice of them, and the patches that the budget kept."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from tqdm import tqdm

from llava.analysis.kept_tokens.draw import draw_kept_tokens
from llava.analysis.kept_tokens.find import find_kept_tokens
from llava.eval.doctor.diagnosis import Budget, Case, Diagnosis
from llava.eval.report.embedded import address_of, thumbnail
from llava.eval.report.flips import Flip
from llava.images.source import UnreadableImageError
from llava.inference import Inference

_INCHES, _DOTS = 2.6, 120


@dataclass(frozen=True)
class Card:
    """A flipped question.

    Attributes:
        budget: The budget.
        case: The task.
        flip: The question and both answers.
        picture: The picture, small, as an address; or why there is none.
        patches: What the budget kept of it, as an address; or why that is not drawn; "" where no model is given.
        caption: What is kept, in words.
    """

    budget: Budget
    case: Case
    flip: Flip
    picture: str
    patches: str = ""
    caption: str = ""


def choose_flips(diagnosis: Diagnosis, most: int) -> list[tuple[Budget, Case, Flip]]:
    """Answers that got worse or better: of every budget, task and type in turn, lost ones before gained ones."""
    listed = []
    for budget, case in diagnosis.cases():
        seen: dict[tuple[str, str], int] = {}
        ranked = []
        for number, flip in enumerate(flip for flip in case.flips if flip.kind != "reworded" and flip.sample.images):
            key = flip.kind, flip.sample.group
            seen[key] = seen.get(key, 0) + 1
            ranked.append(((flip.kind != "lost", seen[key], number), (budget, case, flip)))
        listed.append([entry for _, entry in sorted(ranked, key=lambda pair: pair[0])])
    in_turn = [entry for row in zip_longest(*listed) for entry in row if entry is not None]
    return in_turn[:most]


def make_cards(chosen: Sequence[tuple[Budget, Case, Flip]], inference: Inference | None) -> list[Card]:
    """The chosen questions with their pictures; with the patches that were kept where a model is given.

    Raises:
        ImportError: The patches are to be drawn and matplotlib is not installed (extra `demo`).
    """
    cards = []
    for budget, case, flip in tqdm(chosen, desc="pictures", disable=None if inference else True):
        plain = thumbnail(flip.sample.images[0])
        patches, caption = ("", "") if inference is None else _patches(inference, budget, flip)
        cards.append(Card(budget, case, flip, plain, patches, caption))
    return cards


def _patches(inference: Inference, budget: Budget, flip: Flip) -> tuple[str, str]:
    """What a budget keeps of a picture, drawn and in words; or why it is not drawn, and nothing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "the patches need matplotlib: pip install llava-visionzip[demo], or leave out --model-path"
        ) from None
    try:
        kept = find_kept_tokens(inference, flip.sample.images[0], budget.compression, flip.sample.prompt)
    except (ValueError, UnreadableImageError) as error:
        return f"no patches: {error}", ""
    figure = Figure(figsize=(_INCHES, _INCHES))
    axes = figure.add_axes((0, 0, 1, 1))
    draw_kept_tokens(axes, kept)
    axes.set_title("")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DOTS)
    return address_of(stream.getvalue(), "png"), kept.caption()
