"""The models: transformers' Llava and LlavaNext with one seam overridden, and LLaVA's calling convention on top."""

from __future__ import annotations

from torch import nn
from transformers import LlavaForConditionalGeneration as HFLlavaForConditionalGeneration
from transformers import LlavaModel as HFLlavaModel
from transformers import LlavaNextForConditionalGeneration as HFLlavaNextForConditionalGeneration
from transformers import LlavaNextModel as HFLlavaNextModel

from llava.model.checkpoints.strict_checkpoints import StrictCheckpoints
from llava.model.llava_config import LlavaConfig, LlavaNextConfig
from llava.model.llava_convention import LlavaMetaForCausalLM
from llava.model.vision_seam import VisionSeam

__all__ = [
    "Llava",
    "LlavaForConditionalGeneration",
    "LlavaMetaForCausalLM",
    "LlavaModel",
    "LlavaNextForConditionalGeneration",
    "LlavaNextModel",
]


class LlavaModel(VisionSeam, HFLlavaModel):
    """LLaVA-1.5 without its language-modelling head."""

    config_class = LlavaConfig

    @property
    def mm_projector(self) -> nn.Module:
        """LLaVA's name for the projector."""
        return self.multi_modal_projector


class LlavaNextModel(VisionSeam, HFLlavaNextModel):
    """LLaVA-NeXT without its language-modelling head."""

    config_class = LlavaNextConfig

    @property
    def mm_projector(self) -> nn.Module:
        """LLaVA's name for the projector."""
        return self.multi_modal_projector


class LlavaForConditionalGeneration(StrictCheckpoints, LlavaMetaForCausalLM, HFLlavaForConditionalGeneration):
    """LLaVA-1.5; saved files are transformers' own `llava`, with `compression` in config.json."""

    config_class = LlavaConfig

    def __init__(self, config: LlavaConfig) -> None:
        super(HFLlavaForConditionalGeneration, self).__init__(config)  # the parent would build transformers' own
        self.model = LlavaModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.model.check_vision_config()
        self.post_init()


class LlavaNextForConditionalGeneration(StrictCheckpoints, LlavaMetaForCausalLM, HFLlavaNextForConditionalGeneration):
    """LLaVA-NeXT; saved files are transformers' own `llava_next`, with `compression` in config.json."""

    config_class = LlavaNextConfig

    def __init__(self, config: LlavaNextConfig) -> None:
        super(HFLlavaNextForConditionalGeneration, self).__init__(config)  # as above
        self.model = LlavaNextModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.model.check_vision_config()
        self.post_init()


Llava = LlavaForConditionalGeneration | LlavaNextForConditionalGeneration
