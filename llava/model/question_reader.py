"""Questions about images as tensors, for compressors that choose by what is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from llava.model.multimodal_compressor import QuestionEmbeds


class QuestionReader:
    """Turns questions into the language model's embeddings of them."""

    def __init__(self, tokenizer: Any, embedding: Callable[[], nn.Module]) -> None:
        """Takes the parts.

        Args:
            tokenizer: The model's.
            embedding: Gives the language model's token embedding, as it is at the time.
        """
        self.tokenizer = tokenizer
        self._embedding = embedding

    def ids(self, question: str, words: Callable[[str], list[str]] | None) -> list[int]:
        """The ids of a question's words.

        Args:
            question: One.
            words: As for `embed`.

        Raises:
            ValueError: It has no word.
        """
        parts = words(question) if words else [question]
        found = [each for part in parts for each in self.tokenizer(part, add_special_tokens=False).input_ids]
        if not found:
            raise ValueError(f"the question {question!r} has no word to choose visual tokens by")
        return found

    def embed(self, questions: Sequence[str], words: Callable[[str], list[str]] | None) -> QuestionEmbeds:
        """The embeddings of the questions' words.

        Args:
            questions: Q of them.
            words: What of a question is embedded, each by itself and without the tokenizer's first token; None for
                the question as one text.

        Returns:
            (Q, T, D), T of the longest.

        Raises:
            ValueError: A question has no word.
        """
        embedding = self._embedding()
        device = next(embedding.parameters()).device
        rows = []
        for question in questions:
            ids = self.ids(question, words)
            rows.append(torch.tensor(ids, device=device))
        lengths = torch.tensor([len(row) for row in rows], device=device)
        padded = pad_sequence(rows, batch_first=True)  # (Q, T)
        embeds: Tensor = embedding(padded)
        mask = torch.arange(padded.shape[1], device=device) < lengths.unsqueeze(1)
        return QuestionEmbeds(embeds, mask)
