"""The language-modelling loss from the logits that it looks at, and no others."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from llava.constants import IGNORE_INDEX


def loss_at_targets(
    hidden: Tensor, lm_head: nn.Module, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """The loss of transformers without the logits of prompts, images and padding.

    Args:
        hidden: (B, L, D), the last hidden state.
        lm_head: D to the vocabulary.
        labels: (B, L), `IGNORE_INDEX` where there is no target; a label is predicted one place earlier.
        num_items_in_batch: What the sum is divided by; by default the number of targets.

    Raises:
        ValueError: There are no labels.
    """
    if labels is None:
        raise ValueError("loss_only needs labels")
    targets = labels[:, 1:].to(hidden.device)
    is_target = targets != IGNORE_INDEX
    logits = lm_head(hidden[:, :-1][is_target]).float()  # (targets, vocabulary)
    total = cross_entropy(logits, targets[is_target], reduction="sum")
    return total / (len(logits) if num_items_in_batch is None else torch.as_tensor(num_items_in_batch).to(total.device))
