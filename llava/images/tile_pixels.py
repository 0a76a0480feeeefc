"""Square pictures -> normalised pixels: bit by bit what transformers' Pillow processors give, in less time.

A processor rescales and normalises each 8-bit value by itself, in float64 and then in float32, so there are only 256
results a channel: they are computed once and looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

_KNOWN = {"CLIPImageProcessorPil", "LlavaImageProcessorPil", "SiglipImageProcessorPil"}


def tile_pixels(tiles: Sequence[Image], processor: Any) -> torch.Tensor:
    """What `processor.preprocess(tiles)` gives as `pixel_values`.

    Args:
        tiles: B pictures. If there is none or one is not a square in RGB, or the processor is set to do something
            else than resize, rescale and normalise three channels, the processor itself is asked.
        processor: A tower's image processor.

    Returns:
        (B, 3, side, side), float32.
    """
    side = _side(processor)
    if side is None or not tiles or any(tile.mode != "RGB" or tile.width != tile.height for tile in tiles):
        return processor.preprocess(tiles, return_tensors="pt")["pixel_values"]
    import numpy as np
    import torch

    values = _values(processor)
    pixels = torch.empty(len(tiles), 3, side, side)
    for tile, planes in zip(tiles, pixels.numpy(), strict=True):
        sized = tile if tile.width == side else tile.resize((side, side), resample=processor.resample)
        levels = np.asarray(sized)  # (side, side, 3), uint8
        for channel in range(3):  # "clip" writes straight into `out`; no level is outside 0..255
            np.take(values[channel], levels[..., channel], out=planes[channel], mode="clip")
    return pixels


def _side(processor: Any) -> int | None:
    """The side that squares are resized to; None if that is not all that the processor does."""
    if type(processor).__name__ not in _KNOWN or processor.resample is None:
        return None
    if not (processor.do_resize and processor.do_rescale and processor.do_normalize):
        return None
    if any(not isinstance(value, list | tuple) or len(value) != 3 for value in _mean_and_std(processor)):
        return None  # one number for all channels
    size = processor.size
    side = size.get("shortest_edge") or (size.get("height") if size.get("height") == size.get("width") else None)
    crop = processor.crop_size if getattr(processor, "do_center_crop", None) else {"height": side, "width": side}
    return int(side) if side and crop["height"] == crop["width"] == side else None


def _mean_and_std(processor: Any) -> tuple[Any, Any]:
    return processor.image_mean, processor.image_std


def _values(processor: Any) -> np.ndarray:
    """(3, 256), float32: each level rescaled and normalised, with transformers' dtypes at every step."""
    import numpy as np

    rescaled = (np.arange(256, dtype=np.float64) * processor.rescale_factor).astype(np.float32)
    mean, std = (np.array(value, dtype=np.float32)[:, None] for value in _mean_and_std(processor))
    return (rescaled - mean) / std


def shown_pixels(tile: torch.Tensor, processor: Any) -> np.ndarray:
    """A normalised tile (3, H, W) as the picture that it was: (H, W, 3), between 0 and 1."""
    import numpy as np

    picture = tile.float().cpu().numpy().transpose(1, 2, 0)
    return np.clip(picture * np.asarray(processor.image_std) + np.asarray(processor.image_mean), 0.0, 1.0)
