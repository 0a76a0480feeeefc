"""Keywords at which generation stops, as programs for LLaVA set them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class KeywordsStoppingCriteria(StoppingCriteria):
    """Ends a sequence as soon as the generated part holds one of the keywords.

    Args:
        keywords: Texts to stop at, special tokens such as `</s>` among them.
        tokenizer: The tokenizer that made `input_ids`.
        input_ids: The prompt, (B, tokens). Where `generate` passes prompt and answer together, the prompt is not
            searched; where it starts from embeddings, it passes the answer alone.
    """

    def __init__(self, keywords: Sequence[str], tokenizer: PreTrainedTokenizerBase, input_ids: torch.Tensor) -> None:
        self.keywords = list(keywords)
        self.tokenizer = tokenizer
        self.prompt_ids = input_ids
        self.keyword_ids = [self._ids_without_bos(keyword) for keyword in self.keywords]
        # A token is at least one byte of text, so no keyword spans more tokens than it has bytes.
        self.window = max((len(keyword.encode()) for keyword in self.keywords), default=0)

    def _ids_without_bos(self, keyword: str) -> list[int]:
        ids = list(self.tokenizer(keyword).input_ids)
        return ids[1:] if len(ids) > 1 and ids[0] == self.tokenizer.bos_token_id else ids

    def __call__(self, output_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        """Say for each row of `output_ids` (B, tokens) whether it is done: bool, (B,)."""
        start = self.prompt_ids.shape[1]
        prompt = self.prompt_ids.to(output_ids.device)
        if output_ids.shape[1] >= start and torch.equal(output_ids[:, :start], prompt):
            generated = output_ids[:, start:]
        else:
            generated = output_ids
        done = [self._ends_with_keyword(row) for row in generated.tolist()]
        return torch.tensor(done, dtype=torch.bool, device=output_ids.device)

    def _ends_with_keyword(self, ids: list[int]) -> bool:
        if any(keyword and ids[-len(keyword) :] == keyword for keyword in self.keyword_ids):
            return True
        tail = ids[-self.window :] if self.window else []
        text = self.tokenizer.decode(tail, skip_special_tokens=True)
        return any(keyword in text for keyword in self.keywords)
