"""What a pane of the page is set to, and what the language model is given of the picture under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llava.inference import Inference
from llava.model.any_budget import CLS, ReadImage, bind, check_picks, picked_tokens, reads_questions, tokens_under
from llava.model.configuration import CompressionConfig
from llava.prompts.around import without_images
from llava.serve.web.methods import ALL, HAND


@dataclass(frozen=True)
class Choice:
    """The settings of a pane.

    Attributes:
        method: Of `methods_of`.
        tokens: Tokens a tile.
        merged: How many of them are merged ones.
        picks: Patches of each tile, `CLS` for the CLS token; for the method `HAND`.
    """

    method: str
    tokens: int = 1
    merged: int = 0
    picks: tuple[tuple[int, ...], ...] = ()

    @property
    def budget(self) -> CompressionConfig | None:
        """The budget of a tile; None for all tokens, and for picks.

        Raises:
            ValueError: The numbers are out of range.
        """
        if self.method in (ALL, HAND):
            return None
        return CompressionConfig(self.method, self.tokens - self.merged, self.merged)

    def __str__(self) -> str:
        return self.method if self.budget is None else str(self.budget)


def first_choice(
    methods: Sequence[str], budget: CompressionConfig | None, *, all_tokens: bool = False
) -> tuple[Choice | None, str]:
    """What the page begins with, and what a reader must know of it.

    Args:
        methods: Of `methods_of`.
        budget: What was asked for; None where nothing was.
        all_tokens: Whether all tokens were asked for.

    Returns:
        None for the page's own choice; and "" if there is nothing to say.
    """
    if budget is None:
        return (Choice(ALL) if all_tokens else None), ""
    if budget.method not in methods:
        return None, f"the page cannot show {budget.method} and begins with its own choice, not with {budget}"
    first = Choice(budget.method, budget.num_tokens, budget.contextual)
    if first.budget == budget:
        return first, ""
    return first, f"the page knows no options of a method and begins with {first}, not with {budget}"


class ChosenImages:
    """One picture as a conversation sees it: a `ChatImages`."""

    def __init__(self, inference: Inference, image: ReadImage, choice: Choice) -> None:
        """Takes a choice.

        Args:
            inference: The model.
            image: What its tower has read.
            choice: Of the pane.

        Raises:
            ValueError: The model cannot have that choice.
        """
        self._model = inference.model
        self._image = image
        self._choice = choice
        self._bound = None if choice.method == HAND else bind(self._model, choice.budget)
        if choice.method == HAND:
            check_picks(self._model, image, choice.picks)

    @property
    def chooses_by_question(self) -> bool:
        """As `ChatImages` has it."""
        return reads_questions(self._model, self._bound)

    def features(self, text: str) -> list[Tensor]:
        """As `ChatImages` has it."""
        if self._choice.method == HAND:
            return [picked_tokens(self._model, self._image, self._choice.picks)]
        return [tokens_under(self._model, self._image, self._bound, without_images(text))]


def read_picks(sent: Any, num_tiles: int, num_patches: int) -> tuple[tuple[int, ...], ...]:
    """The picks that a page has sent.

    Args:
        sent: A list for each tile, of patches and of -1 for its CLS token; None or empty for none.
        num_tiles: Of the picture.
        num_patches: P, of a tile.

    Raises:
        ValueError: It is something else.
    """
    if not sent:
        return ((),) * num_tiles
    if not isinstance(sent, Sequence) or len(sent) != num_tiles:
        raise ValueError("the picks are of another picture; clear them and pick again")
    return tuple(_of_tile(tile, num_patches) for tile in sent)


def _of_tile(tile: Any, num_patches: int) -> tuple[int, ...]:
    if not isinstance(tile, Sequence) or len(tile) > num_patches + 1:
        raise ValueError("the picks cannot be read; clear them and pick again")
    for place in tile:
        if type(place) is not int or not CLS <= place < num_patches:
            raise ValueError(f"{place!r:.40} is no patch of a tile of {num_patches}; clear the picks and pick again")
    return tuple(sorted(set(tile)))
