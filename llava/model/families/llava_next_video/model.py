"""LLaVA-NeXT-Video's config and models: LLaVA-NeXT, whose frames of videos are pooled before the projector."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import ClassVar

from torch.nn.functional import avg_pool2d, max_pool2d
from transformers import LlavaNextVideoConfig as HFLlavaNextVideoConfig

from llava.model.clip_forward import ClipForward
from llava.model.frame_pooling import Pool, pool_features, pooled_side
from llava.model.llava_arch import LlavaNextForConditionalGeneration, LlavaNextModel
from llava.model.llava_config import LanguageModelEntries
from llava.model.multimodal_compressor import TileShape, VisionFeatures

_POOLS = {"average": avg_pool2d, "max": max_pool2d}


class LlavaNextVideoConfig(LanguageModelEntries, HFLlavaNextVideoConfig):
    """A LLaVA-NeXT-Video; `model_type` and file format are transformers'."""


class LlavaNextVideoModel(ClipForward, LlavaNextModel):
    """LLaVA-NeXT-Video without its language-modelling head."""

    config_class = LlavaNextVideoConfig

    def check_vision_config(self) -> None:
        """As LLaVA-NeXT's; and the pooling must be one without weights.

        Raises:
            ValueError: A field has a value that is not supported.
        """
        super().check_vision_config()
        mode, stride = self.config.spatial_pool_mode, self.config.spatial_pool_stride
        if mode not in _POOLS:
            raise ValueError(f"spatial_pool_mode {mode!r} is none of {', '.join(_POOLS)}")
        if not isinstance(stride, int) or not 1 <= stride <= self.tile_shape.grid[0]:
            raise ValueError(f"spatial_pool_stride {stride!r} is no number of 1 to {self.tile_shape.grid[0]}")

    @property
    def _pool(self) -> Pool:
        stride = self.config.spatial_pool_stride
        pool: Pool = partial(_POOLS[self.config.spatial_pool_mode], kernel_size=stride, stride=stride)
        return pool

    @property
    def clip_shape(self) -> TileShape:
        """Of a pooled frame, whose CLS token is dropped."""
        side = pooled_side(self.tile_shape.grid[0], self._pool)
        return replace(self.tile_shape, grid=(side, side), keep_cls=False, places=("tower", "projected"))

    def arrange_frames(self, features: VisionFeatures) -> VisionFeatures:
        """Features, keys and saliency, pooled alike."""
        return pool_features(features, self._pool)


class LlavaNextVideoForConditionalGeneration(LlavaNextForConditionalGeneration):
    """LLaVA-NeXT-Video; saved files are transformers' own `llava_next_video`, with `compression` in config.json."""

    config_class = LlavaNextVideoConfig
    base_model_class: ClassVar[type[LlavaNextVideoModel]] = LlavaNextVideoModel


__all__ = ["LlavaNextVideoConfig", "LlavaNextVideoForConditionalGeneration", "LlavaNextVideoModel"]
