"""Video-LLaVA's configs and models: LLaVA-1.5 with a second tower, for videos."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers import LlavaConfig as HFLlavaConfig

from llava.model.clip_forward import ClipForward
from llava.model.families.video_llava.tower import LanguageBindVideoConfig, LanguageBindVideoModel
from llava.model.llava_arch import LlavaForConditionalGeneration, LlavaModel
from llava.model.llava_config import LlavaConfig


class VideoLlavaConfig(LlavaConfig):
    """A Video-LLaVA as its authors published it, in this package's own format; transformers has no class of it.

    Attributes:
        video_config: Of the video tower; by default that of the image tower.
    """

    model_type = "video_llava_original"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        **HFLlavaConfig.sub_configs_defaults,
        "video_config": CLIPVisionConfig,
    }
    video_config: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Makes the video tower's config of what was read."""
        entries = self.video_config
        if isinstance(entries, Mapping):
            is_temporal = entries.get("model_type") == LanguageBindVideoConfig.model_type
            self.video_config = (LanguageBindVideoConfig if is_temporal else CLIPVisionConfig)(**entries)
        elif entries is None:
            given = self.vision_config
            self.video_config = CLIPVisionConfig(**given) if isinstance(given, Mapping) else copy.deepcopy(given)
        super().__post_init__(**kwargs)


class VideoLlavaHFConfig(VideoLlavaConfig):
    """The -hf format, `model_type` transformers' `video_llava`: one config for both towers."""

    model_type = "video_llava"
    attribute_map: ClassVar[dict[str, str]] = {**HFLlavaConfig.attribute_map, "video_token_id": "video_token_index"}
    video_token_index: int = 32001


class VideoLlavaModel(ClipForward, LlavaModel):
    """Video-LLaVA without its language-modelling head."""

    config_class = VideoLlavaConfig

    def __init__(self, config: VideoLlavaConfig) -> None:
        """Makes a LLaVA-1.5, and the video tower beside it."""
        super().__init__(config)
        has_time = config.video_config.model_type == LanguageBindVideoConfig.model_type
        self.video_tower = (LanguageBindVideoModel if has_time else CLIPVisionModel)(config.video_config)

    @property
    def clip_tower(self) -> nn.Module:
        """The tower for videos; its CLS tokens are kept, as the model was trained."""
        return self.video_tower


class VideoLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """Video-LLaVA; saved files are of this package's format `video_llava_original`."""

    config_class = VideoLlavaConfig
    base_model_class: ClassVar[type[VideoLlavaModel]] = VideoLlavaModel


class VideoLlavaHFModel(VideoLlavaModel):
    """The -hf format's, without its head."""

    config_class = VideoLlavaHFConfig


class VideoLlavaHFForConditionalGeneration(VideoLlavaForConditionalGeneration):
    """Video-LLaVA in the -hf format; saved files are transformers' own `video_llava`."""

    config_class = VideoLlavaHFConfig
    base_model_class: ClassVar[type[VideoLlavaHFModel]] = VideoLlavaHFModel


__all__ = [
    "VideoLlavaConfig",
    "VideoLlavaForConditionalGeneration",
    "VideoLlavaHFConfig",
    "VideoLlavaHFForConditionalGeneration",
    "VideoLlavaHFModel",
    "VideoLlavaModel",
]
