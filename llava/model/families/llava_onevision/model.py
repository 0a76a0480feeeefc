"""LLaVA-OneVision's config and models: transformers' own with the seam overridden, for images and for videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import LlavaOnevisionConfig as HFLlavaOnevisionConfig
from transformers import LlavaOnevisionForConditionalGeneration as HFLlavaOnevisionForConditionalGeneration
from transformers import LlavaOnevisionModel as HFLlavaOnevisionModel
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModelOutputWithPast

from llava.model.checkpoints.strict_checkpoints import StrictCheckpoints
from llava.model.clip_forward import ClipForward
from llava.model.configuration import CompressionConfig
from llava.model.frame_pooling import pool_features, pooled_side
from llava.model.llava_arch import LlavaNames
from llava.model.llava_config import LanguageModelEntries
from llava.model.llava_convention import LlavaMetaForCausalLM
from llava.model.multimodal_compressor import TileShape, VisionFeatures
from llava.model.multimodal_forward import MultimodalForward
from llava.model.offloading import like_weights, own_parameter

_VIDEO_ENTRIES = {"mm_newline_position": "one_token", "mm_spatial_pool_mode": "bilinear", "mm_spatial_pool_stride": 2}


class LlavaOnevisionConfig(LanguageModelEntries, HFLlavaOnevisionConfig):
    """A LLaVA-OneVision; `model_type` and file format are transformers'.

    What LLaVA calls `image_aspect_ratio`, transformers calls `vision_aspect_ratio`; the former is followed.
    """

    def __post_init__(self, **kwargs: Any) -> None:
        """Takes the form of images under transformers' name where LLaVA's is not given."""
        super().__post_init__(**kwargs)
        if getattr(self, "image_aspect_ratio", None) is None:
            self.image_aspect_ratio = self.vision_aspect_ratio


class LlavaOnevisionModel(LlavaNames, ClipForward, MultimodalForward, HFLlavaOnevisionModel):
    """LLaVA-OneVision without its language-modelling head."""

    config_class = LlavaOnevisionConfig

    def forward(
        self,
        *args: Any,
        image_sizes_videos: Tensor | None = None,
        vision_aspect_ratio: str | None = None,
        logits_to_keep: Any = 0,
        **kwargs: Any,
    ) -> LlavaOnevisionModelOutputWithPast:
        """`ClipForward.forward`, with the arguments that transformers' class has beside.

        Args:
            *args: As there.
            image_sizes_videos: Of videos; nothing depends on it.
            vision_aspect_ratio: Must be the config's, if it is given.
            logits_to_keep: For the head, which is not here.
            **kwargs: As there.

        Raises:
            ValueError: Another aspect ratio than the config's is given.
        """
        if vision_aspect_ratio not in (None, self.config.vision_aspect_ratio):
            raise ValueError(
                f"vision_aspect_ratio={vision_aspect_ratio!r} differs from the config's "
                f"{self.config.vision_aspect_ratio!r}; set it there"
            )
        return LlavaOnevisionModelOutputWithPast(**super().forward(*args, **kwargs))

    @property
    def clip_shape(self) -> TileShape:
        """Of a frame, pooled behind the projector: half as many rows and columns."""
        side = pooled_side(self.tile_shape.grid[0], _halved)
        return replace(self.tile_shape, grid=(side, side), keep_cls=False, places=("pooled", "projected"))

    @property
    def rows_behind_clip(self) -> int:
        """The newline that ends a video."""
        return 1

    def check_for_clips(self, budget: CompressionConfig) -> None:
        """As every family's; and the config must be one whose videos are read in this way."""
        self._check_videos()
        super().check_for_clips(budget)

    def arrange_frames(self, features: VisionFeatures) -> VisionFeatures:
        """The projector, then rows, keys and saliency pooled alike (as HoliTom has it for VisionZip)."""
        self._check_videos()
        rows = like_weights(features.patches, self.multi_modal_projector).contiguous()
        return pool_features(features, _halved, self.multi_modal_projector(rows))

    def in_clips(self, rows: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
        """The frames of each clip one after the other, and a newline at the very end."""
        newline = own_parameter(self, "image_newline")
        assert newline is not None
        return [torch.cat([clip, newline.to(clip).unsqueeze(0)]) for clip in super().in_clips(rows, counts)]

    def _check_videos(self) -> None:
        for entry, known in _VIDEO_ENTRIES.items():
            value = getattr(self.config, entry, None)
            if value not in (None, known):
                raise ValueError(
                    f"config.json: {entry} {value!r}: videos of such a model (LLaVA-Video) are not supported; only "
                    f"{known!r} is"
                )


def _halved(planes: Tensor) -> Tensor:
    """(B, C, h, w): bilinear, half of each side, rounded up."""
    height, width = planes.shape[-2:]
    return interpolate(planes, size=(-(-height // 2), -(-width // 2)), mode="bilinear")


class LlavaOnevisionForConditionalGeneration(
    StrictCheckpoints, LlavaMetaForCausalLM, HFLlavaOnevisionForConditionalGeneration
):
    """LLaVA-OneVision; saved files are transformers' own `llava_onevision`, with `compression` in config.json."""

    config_class = LlavaOnevisionConfig
    base_model_class: ClassVar[type[LlavaOnevisionModel]] = LlavaOnevisionModel

    def __init__(self, config: LlavaOnevisionConfig) -> None:
        super(HFLlavaOnevisionForConditionalGeneration, self).__init__(config)  # the parent would build its own model
        self.model = self.base_model_class(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.model.check_vision_config()
        self.post_init()


__all__ = ["LlavaOnevisionConfig", "LlavaOnevisionForConditionalGeneration", "LlavaOnevisionModel"]
