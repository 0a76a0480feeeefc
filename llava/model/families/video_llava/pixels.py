"""Pixels of Video-LLaVA by the rules that it was trained with: tensors are resized, without antialias.

Source: PKU-YuanGroup/Video-LLaVA, processing_image.py and processing_video.py, on torchvision 0.15.2, which it pins.
Later versions of torchvision antialias, which moves pixels by up to 0.78.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import BatchFeature
from transformers.image_processing_base import ImageProcessingMixin

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class LanguageBindProcessor(ImageProcessingMixin):
    """Images and clips of a Video-LLaVA.

    Attributes:
        side: Pixels of a side of what the towers see.
        mirror_seed: The original mirrors each clip with probability 1/2, also when it answers. None: none is. A number:
            that is done, drawn by this seed and the clip's pixels, so that a batch answers as its clips one by one do.
    """

    model_input_names = ("pixel_values",)

    def __init__(self, side: int = 224, mirror_seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side, self.mirror_seed = side, mirror_seed
        self.image_mean, self.image_std = list(_MEAN), list(_STD)
        self.size = {"shortest_edge": side}
        self.crop_size = {"height": side, "width": side}

    @classmethod
    def of_config(cls, config: Any) -> LanguageBindProcessor:
        """That of a model; `mm_video_mirror_seed` in its config is the seed."""
        return cls(config.vision_config.image_size, getattr(config, "mm_video_mirror_seed", None))

    def preprocess(self, images: Image | Sequence[Image], return_tensors: str | None = "pt", **_: Any) -> BatchFeature:
        """Pixels of images, which the config's `image_aspect_ratio` may have padded before.

        Args:
            images: RGB, one or B.
            return_tensors: `pt`; there is no other.

        Returns:
            `pixel_values` (B, 3, side, side), fp32.
        """
        given = [images] if isinstance(images, Image) else images
        return BatchFeature({"pixel_values": torch.stack([self._image(image) for image in given])})

    __call__ = preprocess

    def clip_pixels(self, frames: np.ndarray) -> Tensor:
        """Pixels of one clip.

        Args:
            frames: (T, H, W, 3), uint8.

        Returns:
            (T, 3, side, side), fp32.
        """
        pixels = self._normalised(torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2) / 255.0)
        height, width = pixels.shape[-2:]
        if width < height:
            size = math.floor(height / width * self.side), self.side
        else:
            size = self.side, math.floor(width / height * self.side)
        pixels = self._cropped(interpolate(pixels, size, mode="bilinear", align_corners=False))
        return pixels.flip(-1) if self.mirrors(frames) else pixels

    def mirrors(self, frames: np.ndarray) -> bool:
        """Whether a clip is mirrored."""
        if self.mirror_seed is None:
            return False
        digest = hashlib.sha256(f"{self.mirror_seed}:{frames.shape}:".encode() + np.ascontiguousarray(frames).tobytes())
        return bool(digest.digest()[0] & 1)

    def _image(self, image: Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0) / 255.0
        height, width = pixels.shape[-2:]
        short, long = min(height, width), max(height, width)
        other = int(self.side * long / short)
        size = (other, self.side) if width < height else (self.side, other)
        if (height, width) != size:
            pixels = interpolate(pixels, size, mode="bicubic", align_corners=False)
        return self._normalised(self._cropped(pixels))[0]

    def _cropped(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        top, left = round((height - self.side) / 2.0), round((width - self.side) / 2.0)
        return pixels[..., top : top + self.side, left : left + self.side]

    @staticmethod
    def _normalised(pixels: Tensor) -> Tensor:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
        return (pixels - mean) / std


def processor_of(config: Any) -> LanguageBindProcessor:
    """The image processor of a Video-LLaVA's config."""
    return LanguageBindProcessor.of_config(config)


__all__ = ["LanguageBindProcessor", "processor_of"]
