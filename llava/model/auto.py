"""One door for both kinds of model, where nobody has to know which a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llava.kinds.families import FAMILIES, Family, family_of
from llava.model.checkpoints.config_adapter import read_config
from llava.model.checkpoints.strict_checkpoints import open_checkpoint
from llava.model.configuration import STORED, CompressionLike, Stored
from llava.model.processing import CompressedProcessor
from llava.model.processor_files import open_small_files
from llava.small_files import CheckpointError, read_json


class AutoLlava:
    """Opens a LLaVA-1.5 or a LLaVA-NeXT, in either format, as the class that it is."""

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: Any, *, compression: CompressionLike | Stored = STORED, **kwargs: Any
    ) -> Any:
        """The model of a checkpoint.

        Args:
            pretrained_model_name_or_path: As for `load_pretrained_model`.
            compression: In place of the config's; see `load_pretrained_model`.
            **kwargs: For transformers' `from_pretrained`: `dtype`, `device_map`, `revision`, ...

        Returns:
            A `LlavaForConditionalGeneration` or a `LlavaNextForConditionalGeneration`.

        Raises:
            CheckpointError: It is no LLaVA, or cannot be loaded.
        """
        parts = open_checkpoint(pretrained_model_name_or_path, kwargs)
        model_class = family_of(parts.config).model()
        return model_class.from_parts(parts, pretrained_model_name_or_path, compression, **kwargs)


class AutoLlavaProcessor:
    """Makes the processor of either kind of model."""

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: Any, *, compression: CompressionLike | Stored = STORED, **hub_options: Any
    ) -> CompressedProcessor:
        """The processor of a checkpoint; see `CompressedProcessor.from_pretrained`.

        Raises:
            CheckpointError: It is no LLaVA, or its processor cannot be loaded.
        """
        folder = open_small_files(pretrained_model_name_or_path, hub_options)
        made: CompressedProcessor = _family_in(folder).processor().from_pretrained(folder, compression=compression)
        return made

    @staticmethod
    def for_model(model: Any, tokenizer: Any = None, image_processor: Any = None) -> CompressedProcessor:
        """The processor of a model, with the compression that the model has; see `CompressedProcessor.for_model`."""
        made: CompressedProcessor = family_of(model.config).processor().for_model(model, tokenizer, image_processor)
        return made


def _family_in(folder: Path) -> Family:
    """The family that a folder's config.json is of, or, in a folder of a processor alone, its processor's."""
    if (folder / "config.json").exists():
        return family_of(read_config(folder)[0])
    named = read_json(folder / "processor_config.json").get("processor_class")
    found = FAMILIES.first(lambda family: family.processor_class.endswith(f":{named}"))
    if found is None:
        raise CheckpointError(f"{folder}: processor_config.json: processor_class {named!r} is none of a LLaVA's")
    return found


__all__ = ["AutoLlava", "AutoLlavaProcessor"]
