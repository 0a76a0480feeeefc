"""transformers' own configs, with the language model's entries readable where programs for LLaVA look for them."""

from __future__ import annotations

from typing import Any

from transformers import LlavaConfig as HFLlavaConfig
from transformers import LlavaNextConfig as HFLlavaNextConfig

from llava.model.checkpoints.config_adapter import read_config
from llava.model.checkpoints.files import resolve_checkpoint, take_hub_options


class LanguageModelEntries:
    """Read-only views of `text_config`; they are not written to config.json, which stays transformers' own."""

    text_config: Any

    # Entries that LLaVA's configs always have and llava-hf's never.
    mm_use_im_start_end = False
    mm_use_im_patch_token = False
    use_cache = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Transformers' `from_pretrained`, of a config.json in either format.

        Args:
            pretrained_model_name_or_path: A folder, or a repository on the Hub.
            **kwargs: As transformers takes them: the Hub's options, and entries to be changed.

        Raises:
            CheckpointError: config.json is missing, or is not a LLaVA's.
        """
        hub = take_hub_options(kwargs)
        subfolder, wants_rest = kwargs.pop("subfolder", ""), kwargs.pop("return_unused_kwargs", False)
        config, _ = read_config(resolve_checkpoint(pretrained_model_name_or_path, weights=False, **hub) / subfolder)
        config.name_or_path = str(pretrained_model_name_or_path)
        known = {name: kwargs.pop(name) for name in list(kwargs) if hasattr(config, name)}
        for name, value in known.items():
            setattr(config, name, value)
        return (config, kwargs) if wants_rest else config

    @property
    def hidden_size(self) -> int:
        """Width of the language model."""
        return int(self.text_config.hidden_size)

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the language model."""
        return int(self.text_config.num_hidden_layers)

    @property
    def num_attention_heads(self) -> int:
        """Attention heads of the language model."""
        return int(self.text_config.num_attention_heads)

    @property
    def vocab_size(self) -> int:
        """Rows of the token embedding."""
        return int(self.text_config.vocab_size)

    @property
    def max_position_embeddings(self) -> int:
        """Longest sequence, in tokens, that the language model was made for."""
        return int(self.text_config.max_position_embeddings)


def entries_without_place(config: Any) -> dict[str, Any]:
    """All entries of a config, but for the place that it was loaded from on this machine."""
    return {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}


class LlavaConfig(LanguageModelEntries, HFLlavaConfig):
    """A LLaVA-1.5 model; `model_type` and file format are transformers'."""


class LlavaNextConfig(LanguageModelEntries, HFLlavaNextConfig):
    """A LLaVA-NeXT model; `model_type` and file format are transformers'."""
