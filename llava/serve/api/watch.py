"""A batch of rows while it is generated: each row is told what is new, and ends by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from llava.inference import Inference
from llava.inference.first_logits import NOT_FINITE, FirstLogits
from llava.inference.watch import BatchRow
from llava.serve.api.errors import failed
from llava.serve.api.row import Finished, Piece, Row
from llava.serve.api.sampling import DrawnRows, Sampling
from llava.serve.api.writing import Writing


class RowsWatch:
    """The `Watch` of one call."""

    def __init__(self, inference: Inference, rows: Sequence[Row], on_first: Callable[[Row], None]) -> None:
        """Takes the rows of the call, in the order of its questions.

        Args:
            inference: The model that is asked.
            rows: One for each question.
            on_first: Called when a row has its first token.
        """
        self._rows = rows
        self._on_first = on_first
        self._writings = [Writing(inference, row.max_new_tokens, row.stops) for row in rows]

    def begin(self, rows: Sequence[BatchRow], first: FirstLogits) -> dict[str, Any]:
        """As `Watch` has it."""
        mine = [self._rows[row.index] for row in rows]
        answers = [_Answer(self._rows[row.index], self._writings[row.index], row, self._on_first) for row in rows]
        options: dict[str, Any] = {
            "max_new_tokens": max(row.max_new_tokens for row in mine),
            "stopping_criteria": StoppingCriteriaList([_EachByItself(answers, first)]),
        }
        if any(row.temperature > 0 for row in mine):
            drawn = [Sampling(row.temperature, row.top_p, row.seed) for row in mine]
            options["logits_processor"] = LogitsProcessorList([DrawnRows(drawn)])
        return options


class _Answer:
    """A row of a batch."""

    def __init__(self, row: Row, writing: Writing, counts: BatchRow, on_first: Callable[[Row], None]) -> None:
        writing.again()
        self._row, self._writing, self._counts, self._on_first = row, writing, counts, on_first

    def take(self, token: int, is_finite: bool) -> bool:
        """Takes the next token; says whether the row has ended."""
        row, writing = self._row, self._writing
        if row.is_over or row.is_cancelled:
            return True
        if not is_finite:
            row.end(failed(NOT_FINITE))
            return True
        is_first = not writing.ids
        if is_first:
            row.has_begun = True
            self._on_first(row)
        writing.take(token)
        if writing.reason is not None:
            self._finish(writing.reason)
            return True
        piece = writing.piece() if row.streams else ""
        if piece or (row.streams and is_first):  # a client sees that it has begun, also where its text is not sure yet
            row.tell(Piece(piece))
        return False

    def _finish(self, reason: str) -> None:
        text, counts = self._writing.text(), self._counts
        prompt, visual, new = counts.prompt_tokens, counts.visual_tokens, len(self._writing.ids)
        self._row.end(Finished(text, self._writing.rest(), reason, prompt, visual, new))


class _EachByItself(StoppingCriteria):
    """Hands every new token to its row; a row that has ended is given no more."""

    def __init__(self, answers: Sequence[_Answer], first: FirstLogits) -> None:
        self._answers, self._first = answers, first
        self._is_finite: list[bool] | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """(B,), bool: which rows of the ids (B, T) have ended."""
        if self._is_finite is None:
            self._is_finite = self._first.are_finite()
        tokens = input_ids[:, -1].tolist()
        rows = zip(self._answers, tokens, self._is_finite, strict=False)  # others may stand behind ours
        ended = [answer.take(token, is_finite) for answer, token, is_finite in rows]
        ended += [True] * (len(tokens) - len(ended))
        return torch.tensor(ended, device=input_ids.device)
