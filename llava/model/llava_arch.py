"""The models: transformers' Llava and LlavaNext with one seam overridden, and LLaVA's calling convention on top."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from transformers import LlavaForConditionalGeneration as HFLlavaForConditionalGeneration
from transformers import LlavaModel as HFLlavaModel
from transformers import LlavaNextForConditionalGeneration as HFLlavaNextForConditionalGeneration
from transformers import LlavaNextModel as HFLlavaNextModel

from llava.model.checkpoints.strict_checkpoints import StrictCheckpoints
from llava.model.llava_config import LlavaConfig, LlavaNextConfig
from llava.model.llava_convention import LlavaMetaForCausalLM
from llava.model.multimodal_forward import MultimodalForward

__all__ = [
    "Llava",
    "LlavaForConditionalGeneration",
    "LlavaMetaForCausalLM",
    "LlavaModel",
    "LlavaNextForConditionalGeneration",
    "LlavaNextModel",
]


class LlavaNames:
    """What LLaVA calls the parts of its model, which is a language model with a tower; here it holds both."""

    multi_modal_projector: nn.Module
    language_model: Any

    @property
    def mm_projector(self) -> nn.Module:
        """The projector."""
        return self.multi_modal_projector

    @property
    def embed_tokens(self) -> nn.Module:
        """The token embedding."""
        embedding: nn.Module = self.language_model.get_input_embeddings()
        return embedding

    @property
    def layers(self) -> nn.ModuleList:
        """The layers of the language model."""
        layers: nn.ModuleList = self.language_model.layers
        return layers

    @property
    def norm(self) -> nn.Module:
        """What follows them."""
        norm: nn.Module = self.language_model.norm
        return norm

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding; transformers would look for a module of that name."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the token embedding, where it is."""
        self.language_model.set_input_embeddings(value)


class LlavaModel(LlavaNames, MultimodalForward, HFLlavaModel):
    """LLaVA-1.5 without its language-modelling head."""

    config_class = LlavaConfig


class LlavaNextModel(LlavaNames, MultimodalForward, HFLlavaNextModel):
    """LLaVA-NeXT without its language-modelling head."""

    config_class = LlavaNextConfig


class LlavaForConditionalGeneration(StrictCheckpoints, LlavaMetaForCausalLM, HFLlavaForConditionalGeneration):
    """LLaVA-1.5; saved files are transformers' own `llava`, with `compression` in config.json."""

    config_class = LlavaConfig
    base_model_class: ClassVar[type[LlavaModel]] = LlavaModel

    def __init__(self, config: LlavaConfig) -> None:
        super(HFLlavaForConditionalGeneration, self).__init__(config)  # the parent would build transformers' own
        self.model = self.base_model_class(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.model.check_vision_config()
        self.post_init()


class LlavaNextForConditionalGeneration(StrictCheckpoints, LlavaMetaForCausalLM, HFLlavaNextForConditionalGeneration):
    """LLaVA-NeXT; saved files are transformers' own `llava_next`, with `compression` in config.json."""

    config_class = LlavaNextConfig
    base_model_class: ClassVar[type[LlavaNextModel]] = LlavaNextModel

    def __init__(self, config: LlavaNextConfig) -> None:
        super(HFLlavaNextForConditionalGeneration, self).__init__(config)  # as above
        self.model = self.base_model_class(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.model.check_vision_config()
        self.post_init()


Llava = LlavaForConditionalGeneration | LlavaNextForConditionalGeneration
