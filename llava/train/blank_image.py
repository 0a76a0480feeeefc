"""An image for batches of texts, where DeepSpeed needs every process to run the same parts of the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.anyres import TileLayout
from llava.model.vision_tokens import VisionTokens


def add_blank_image(batch: dict[str, Any], model: Any, *, as_tokens: bool = False) -> dict[str, Any]:
    """Puts a blank image behind the last token of a batch of texts.

    Under ZeRO-3 each layer is fetched from all processes, so one whose batch has no image would leave the others
    waiting for ever. Under ZeRO-1 and 2 gradients are reduced in the order in which they come, which must be the same
    on all processes, the projector's last. Nothing is learned from the image: no token that is learned can see it.

    Args:
        batch: `input_ids`, `labels`, `attention_mask`, each (B, T), padded on the right; no images.
        model: Says how large an image is, and of how many tiles.
        as_tokens: The tower need not run: the image begins at the projector.

    Returns:
        A batch with T + 1 columns and one image, that of the first sample.
    """
    side = model.model.picture.side
    layout = TileLayout.from_config(model.config)
    is_tiled = bool(layout.pinpoints) and str(getattr(model.config, "image_aspect_ratio", "")).startswith("anyres")
    shape = (1, layout.num_tiles((side, side)), 3, side, side) if is_tiled else (1, 3, side, side)
    if as_tokens:
        image: dict[str, Any] = {"vision_tokens": _blank_tokens(model.model, is_tiled)}
    else:
        image = {"images": torch.zeros(shape)}
    return {
        **batch,
        **image,
        "input_ids": _with_column(batch["input_ids"], IMAGE_TOKEN_INDEX),
        "labels": torch.nn.functional.pad(batch["labels"], (0, 1), value=IGNORE_INDEX),
        "attention_mask": _with_column(batch["attention_mask"], 1),
        "image_sizes": [(side, side)],
    }


def _blank_tokens(model: Any, is_tiled: bool) -> VisionTokens:
    """One tile."""
    count, channels = model.tokens_per_tile, model.config.vision_config.hidden_size
    positions = None if model.compression is None else torch.zeros(1, count, dtype=torch.int16)
    dtype = next(model.vision_tower.parameters()).dtype  # as the cache has them
    return VisionTokens(torch.zeros(1, count, channels, dtype=dtype), [1] if is_tiled else None, positions)


def _with_column(values: Tensor, first: int) -> Tensor:
    """One more column, `first` in the first row; 0 in the others, where it is padding."""
    column = torch.zeros_like(values[:, :1])
    column[0] = first
    return torch.cat([values, column], dim=1)
