"""Which words of the question speak of the image: SparseVLM's raters.

Shapes: B prompts, L rows, T last rows of each, I images of the prompt that has the most, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llava.model.language_pruning.prompt_rows import PromptRows


def text_behind(rows: PromptRows, count: int) -> Tensor:
    """Which of the last rows are text behind the last image: (B, T), bool; the last row of all if there is none."""
    column = torch.arange(rows.width, device=rows.owner.device)
    end = torch.where(rows.owner >= 0, column, -1).amax(dim=1, keepdim=True)
    behind = (rows.is_row & (column > end))[:, -count:]
    last = column[-count:] == column[-1]
    return behind | (last & ~behind.any(dim=1, keepdim=True))


def by_image(values: Tensor, owner: Tensor, images: int) -> Tensor:
    """Means over the rows of each image: values (B, L, X) to (B, I, X); of images that are not there, 0."""
    number = torch.arange(images, device=owner.device).unsqueeze(1)
    is_own = (owner.unsqueeze(1) == number).to(values.dtype)  # (B, I, L)
    return is_own @ values / is_own.sum(dim=2, keepdim=True).clamp(min=1)


def find_raters(first: PromptRows, count: int, images: int) -> Tensor:
    """Text that an image's rows find likely: above the mean of what each text row gets of a softmax over the text.

    Args:
        first: The rows as they enter the language model.
        count: T.
        images: I.

    Returns:
        (B, I, T), float32, 1 for a rater of an image, else 0; there is one at least.
    """
    text = text_behind(first, count).unsqueeze(1)  # (B, 1, T)
    hidden = first.hidden.float()
    products = hidden @ hidden[:, -count:].transpose(1, 2)  # (B, L, T)
    shares = torch.softmax(products.masked_fill(~text, torch.finfo(torch.float32).min), dim=2)
    relevance = by_image(shares, first.owner, images)
    mean = relevance.masked_fill(~text, 0).sum(dim=2, keepdim=True) / text.sum(dim=2, keepdim=True)
    above = text & (relevance > mean)
    return torch.where(above.any(dim=2, keepdim=True), above, text).float()
