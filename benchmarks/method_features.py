"""Random features of real shapes for compressors alone, and the bytes that any method must move."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from llava import CompressionConfig
from llava.model.multimodal_compressor import QuestionEmbeds, VisionFeatures, get_compressor

CHANNELS, KEY_CHANNELS, WORDS, HEADS = 1024, 64, 16, 16
"""Of CLIP ViT-L/14-336; the projector's rows have as many channels here as the tower's."""


def make_features(
    batch: int, device: torch.device, dtype: torch.dtype, grid: tuple[int, int] = (24, 24)
) -> VisionFeatures:
    """Features with all that a method may ask for but CLIP's text tower; each tile is an image of its own."""
    patches = grid[0] * grid[1]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    content = normal(batch, patches + 1, CHANNELS)
    attention = torch.rand(batch, HEADS, patches, device=device)
    return VisionFeatures(
        content=content,
        grid=grid,
        has_cls=True,
        source=content[:, 1:],
        saliency_has_cls=True,
        keys=normal(batch, patches + 1, KEY_CHANNELS),
        saliency=attention.sum(dim=1),
        cls_attention=attention,
        last_layer_qk=(normal(batch, patches + 1, CHANNELS), normal(batch, patches + 1, CHANNELS)),
        digest=torch.randint(2**62, (batch,), device=device),
        projected=content[:, 1:],
        image_index=torch.arange(batch, device=device),
        padding=torch.zeros(batch, patches, dtype=torch.bool, device=device),
        question_embeds=QuestionEmbeds(
            normal(batch, WORDS, CHANNELS), torch.ones(batch, WORDS, dtype=torch.bool, device=device)
        ),
    )


def floor_bytes(features: VisionFeatures, budget: CompressionConfig) -> int:
    """The least that must move: what is needed is read, the tokens are written.

    A method that merges reads every row, one that only picks reads the rows that it keeps.
    """
    compressor = get_compressor(budget.method)
    needs = compressor.needs_with(compressor.options_of(budget))
    read = sum(_bytes_of(getattr(features, name)) for name in sorted(needs))
    hidden = features.content
    row = hidden.shape[0] * hidden.shape[2] * hidden.element_size()
    rows = hidden.shape[1] if budget.contextual else budget.num_tokens
    return read + (rows + budget.num_tokens) * row


def _bytes_of(value: Any) -> int:
    """Of a tensor, or of those in a tuple or a dataclass."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if is_dataclass(value):
        return sum(_bytes_of(getattr(value, entry.name)) for entry in fields(value))
    return sum(map(_bytes_of, value)) if isinstance(value, tuple) else 0
