"""LLaVA-OneVision's config and models: transformers' own with the seam overridden, for images."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import LlavaOnevisionConfig as HFLlavaOnevisionConfig
from transformers import LlavaOnevisionForConditionalGeneration as HFLlavaOnevisionForConditionalGeneration
from transformers import LlavaOnevisionModel as HFLlavaOnevisionModel
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModelOutputWithPast

from llava.model.checkpoints.strict_checkpoints import StrictCheckpoints
from llava.model.llava_arch import LlavaNames
from llava.model.llava_config import LanguageModelEntries
from llava.model.llava_convention import LlavaMetaForCausalLM
from llava.model.multimodal_forward import MultimodalForward


class LlavaOnevisionConfig(LanguageModelEntries, HFLlavaOnevisionConfig):
    """A LLaVA-OneVision; `model_type` and file format are transformers'.

    What LLaVA calls `image_aspect_ratio`, transformers calls `vision_aspect_ratio`; the former is followed.
    """

    def __post_init__(self, **kwargs: Any) -> None:
        """Takes the form of images under transformers' name where LLaVA's is not given."""
        super().__post_init__(**kwargs)
        if getattr(self, "image_aspect_ratio", None) is None:
            self.image_aspect_ratio = self.vision_aspect_ratio


class LlavaOnevisionModel(LlavaNames, MultimodalForward, HFLlavaOnevisionModel):
    """LLaVA-OneVision without its language-modelling head."""

    config_class = LlavaOnevisionConfig

    def forward(
        self,
        *args: Any,
        pixel_values_videos: Tensor | None = None,
        image_sizes_videos: Tensor | None = None,
        vision_aspect_ratio: str | None = None,
        logits_to_keep: Any = 0,
        **kwargs: Any,
    ) -> LlavaOnevisionModelOutputWithPast:
        """`MultimodalForward.forward`, with the arguments that transformers' class has beside.

        Args:
            *args: As there.
            pixel_values_videos: Must be None: images alone are supported.
            image_sizes_videos: Of videos.
            vision_aspect_ratio: Must be the config's, if it is given.
            logits_to_keep: For the head, which is not here.
            **kwargs: As there.

        Raises:
            ValueError: A video is given, or another aspect ratio than the config's.
        """
        if pixel_values_videos is not None:
            raise ValueError("pixel_values_videos: videos are not supported, only images are; give frames as images")
        if vision_aspect_ratio not in (None, self.config.vision_aspect_ratio):
            raise ValueError(
                f"vision_aspect_ratio={vision_aspect_ratio!r} differs from the config's "
                f"{self.config.vision_aspect_ratio!r}; set it there"
            )
        return LlavaOnevisionModelOutputWithPast(**super().forward(*args, **kwargs))


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
