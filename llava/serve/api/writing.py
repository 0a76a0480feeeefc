"""One answer while it is made: its tokens become text, and the text ends where it should."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava.prompts.around import end_token_ids

if TYPE_CHECKING:
    from llava.inference import Inference

_HALF = "\N{REPLACEMENT CHARACTER}"  # what a byte or two of a character are decoded to
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a token of one byte; a run of them is read as a whole, or not at all


class Writing:
    """The text of an answer. Pieces are given away only once nothing can take them back.

    Attributes:
        ids: The new tokens, the end token excluded.
        reason: Why it has ended, as OpenAI says it: `stop` or `length`; None before.
    """

    def __init__(self, inference: Inference, max_new_tokens: int, stops: Sequence[str] = ()) -> None:
        """Begins empty.

        Args:
            inference: The model.
            max_new_tokens: After which it ends.
            stops: Texts at which it ends; they are no part of it.
        """
        template = inference.prompts.stop
        self.ids: list[int] = []
        self.reason: str | None = None
        self._inference = inference
        self._most = max_new_tokens
        self._own_stops = tuple(stops)
        self._stops = (*stops, template) if template else tuple(stops)
        self._ends = end_token_ids(inference.model)
        self._text = ""
        self._given = 0  # characters of `_text`, from its first that is no space
        self._start = self._read = 0  # tokens from which the next piece is decoded, and up to which it is known

    def take(self, token: int) -> None:
        """Takes the next token."""
        if token in self._ends:
            self.reason = "stop"
            return
        self.ids.append(token)
        self._grow()
        if self._end() is not None:
            self.reason = "stop"
        elif len(self.ids) >= self._most:
            self.reason = "length"

    def again(self) -> None:
        """Begins anew after a batch that was too large; what was given away will be said again, and not given twice."""
        self.ids, self.reason, self._text, self._start, self._read = [], None, "", 0, 0

    def piece(self) -> str:
        """What is new and certain of the text."""
        sure = self._text[: self._end()].strip()
        if self.reason is None:
            for length in range(min(len(sure), max(map(len, self._stops), default=0)), 0, -1):
                if any(stop.startswith(sure[-length:]) for stop in self._stops):
                    sure = sure[:-length].rstrip()
                    break
        return self._give(sure)

    def text(self) -> str:
        """The whole answer; what `Inference.ask_one` gives, up to a text of `stops`."""
        if _first(self._own_stops, self._text) is not None:  # where space still stands, for a stop may end with it
            return self._text[: self._end()].strip()
        whole = self._inference.decode(self._inference.until_end(self.ids))
        return whole[: _first(self._own_stops, whole)].strip()

    def rest(self) -> str:
        """What has not been given away of a finished answer."""
        return self._give(self.text())

    def _give(self, text: str) -> str:
        new = text[self._given :]
        self._given = max(self._given, len(text))
        return new

    def _end(self) -> int | None:
        """Where the first text stands at which the answer ends."""
        return _first(self._stops, self._text)

    def _grow(self) -> None:
        """Decodes what a token adds: with a few before it, for the text of a token depends on them."""
        if _BYTE.fullmatch(str(self._inference.tokenizer.convert_ids_to_tokens(self.ids[-1]))):
            return
        known = self._decode(self._start, self._read)
        both = self._decode(self._start, len(self.ids))
        if len(both) > len(known) and not both.endswith(_HALF):
            self._text += both[len(known) :]
            self._start, self._read = self._read, len(self.ids)

    def _decode(self, start: int, end: int) -> str:
        return str(self._inference.tokenizer.decode(self.ids[start:end], skip_special_tokens=True))


def _first(stops: Sequence[str], text: str) -> int | None:
    """Where the first of some stops stands in a text."""
    return min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)
