"""What is exported: the tensors of anything that `load_pretrained_model` loads, by name and not yet read."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from llava.kinds.families import family_of
from llava.model.checkpoints.files import CheckpointError, resolve_checkpoint
from llava.model.checkpoints.names import tower_root
from llava.model.checkpoints.parts import ModelParts, parts_of_checkpoint
from llava.model.checkpoints.stored_tensor import StoredTensor
from llava.model.checkpoints.strictness import check_tensors
from llava.model.configuration import CompressionConfig, as_compression
from llava.model.vocabulary import add_image_tokens
from llava.prompts.tokenization import load_tokenizer

logger = logging.getLogger(__name__)

EMBEDDING = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"
NEWLINE = "model.image_newline"
IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass
class ExportSource:
    """A checkpoint that is about to be exported.

    Attributes:
        folder: Where it lies on this machine.
        parts: What it is made of.
        tensors: Its tensors by the module's names; adapters are merged as a tensor is read.
    """

    folder: Path
    parts: ModelParts
    tensors: dict[str, StoredTensor]

    @property
    def config(self) -> Any:
        """Transformers' config of the whole model."""
        return self.parts.config

    @property
    def compression(self) -> CompressionConfig | None:
        """The compression that its config asks for."""
        return as_compression(getattr(self.config, "compression", None))

    @property
    def tower(self) -> str:
        """The tower's root in the tensors' names."""
        return tower_root(self.tensors)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, with the tokens that a LLaVA config asks for.

        Raises:
            CheckpointError: Such a token has no row in the vocabulary; LLaVA would draw one at random.
        """
        tokenizer = load_tokenizer(self.parts.tokenizer_folder)
        if not self.parts.is_llava_format:
            return tokenizer
        wanted = add_image_tokens(tokenizer, self.config)
        without_row = [name for name in wanted if tokenizer.convert_tokens_to_ids(name) >= self.config.vocab_size]
        if without_row:
            raise CheckpointError(
                f"{self.folder}: config.json asks for the tokens {', '.join(without_row)}, but the vocabulary of "
                f"{self.config.vocab_size} rows has none for them; set mm_use_im_patch_token and mm_use_im_start_end "
                "to false, or export a model that was trained with them"
            )
        return tokenizer


def open_source(src: str | Path, model_base: str | Path | None = None) -> ExportSource:
    """Reads what a checkpoint is made of; nothing is computed and no model built.

    Args:
        src: A folder or a repository on the Hub.
        model_base: For a projector or adapters; by default what they name themselves.

    Raises:
        CheckpointError: It cannot be loaded, or is quantised, or lacks tensors.
    """
    folder = resolve_checkpoint(src)
    parts = parts_of_checkpoint(folder, model_base)
    _refuse_quantised(parts)
    parts.may_start_at_random = ()  # nothing random is released
    check_tensors(parts, family_of(parts.config).model())
    return ExportSource(folder, parts, dict(parts.state))


def _refuse_quantised(parts: ModelParts) -> None:
    for where, config in (("", parts.config), ("text_config.", parts.config.text_config)):
        found = getattr(config, "quantization_config", None)
        if found:
            method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
            raise CheckpointError(
                f"{parts.source}: config.json: {where}quantization_config ({method or 'unknown method'}): a quantised "
                "model is not exported; export the model it was made of"
            )
