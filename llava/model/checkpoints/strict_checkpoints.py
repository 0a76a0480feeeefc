"""Reading and writing checkpoints: transformers' methods, strict about tensors, with the names of published files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from threading import RLock
from typing import Any

from transformers.integrations import is_deepspeed_zero3_enabled

from llava.kinds.families import family_of
from llava.kinds.towers import tower_kind
from llava.model.checkpoints.files import CheckpointError, resolve_checkpoint, take_hub_options
from llava.model.checkpoints.lora import adapter_tensors, some
from llava.model.checkpoints.names import to_file_names, tower_root, transformers_names
from llava.model.checkpoints.parts import ModelParts, finish_model, parts_of_checkpoint
from llava.model.checkpoints.quantised import refuse_quantising_again
from llava.model.checkpoints.stored_tensor import StoredTensor
from llava.model.checkpoints.strictness import check_tensors, choose_compression
from llava.model.configuration import STORED, CompressionLike, Stored, as_compression
from llava.model.tuned_range import TunedRange
from llava.small_files import optional_json

logger = logging.getLogger(__name__)

# transformers replaces methods of its classes while it loads: two threads at once would leave it so, and from then on
# no head of the process would be tied to its embedding.
_LOADING = RLock()


def open_checkpoint(path_or_repo: Any, kwargs: dict[str, Any]) -> ModelParts:
    """What a checkpoint is made of.

    Args:
        path_or_repo: A folder, or a repository on the Hub.
        kwargs: Of `from_pretrained`; those of the Hub are taken out.

    Raises:
        CheckpointError: It cannot be had, or holds nothing that can be loaded.
    """
    hub = take_hub_options(kwargs)
    return parts_of_checkpoint(resolve_checkpoint(path_or_repo, **hub) / kwargs.pop("subfolder", ""))


class StrictCheckpoints:
    """Mixed into the models, before transformers' classes."""

    @classmethod
    def from_state(cls, config: Any, state: Mapping[str, StoredTensor], **options: Any) -> Any:
        """Makes the model; each tensor is read when its turn comes, and goes to its device and dtype at once.

        Args:
            config: Of the model.
            state: Tensors by the module's names; a missing one starts at random.
            **options: For transformers' `from_pretrained`: `dtype`, `device_map`, `quantization_config`, ...
        """
        tensors: Any = state
        if is_deepspeed_zero3_enabled():  # its loader knows tensors only
            tensors = {name: tensor.read() for name, tensor in state.items()}
        with _LOADING:
            return super().from_pretrained(None, config=config, state_dict=tensors, **options)  # type: ignore[misc]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *, compression: CompressionLike | Stored = STORED, **kwargs: Any
    ) -> Any:
        """Transformers' `from_pretrained`, strict about tensors: either format, published files of any age.

        Args:
            pretrained_model_name_or_path: As for `load_pretrained_model`, which also gives the tokenizer.
            compression: In place of the config's; see `load_pretrained_model`.
            **kwargs: For transformers' `from_pretrained`, `revision`, `cache_dir` and the like among them.

        Raises:
            CheckpointError: The checkpoint does not hold this kind of model.
        """
        parts = open_checkpoint(pretrained_model_name_or_path, kwargs)
        return cls.from_parts(parts, pretrained_model_name_or_path, compression, **kwargs)

    @classmethod
    def from_parts(cls, parts: ModelParts, name: Any, compression: CompressionLike | Stored, **kwargs: Any) -> Any:
        """Makes the model of an opened checkpoint.

        Args:
            parts: From `open_checkpoint`.
            name: What was asked for: a folder or a repository.
            compression: In place of the config's.
            **kwargs: For transformers' `from_pretrained`.

        Raises:
            CheckpointError: The checkpoint does not hold this kind of model.
        """
        family = family_of(parts.config)
        if parts.config.model_type != cls.config_class.model_type:  # type: ignore[attr-defined]
            fitting = family.model_class.partition(":")[2]
            raise CheckpointError(
                f"{name}: holds a {family.name} ({parts.config.model_type}), which {fitting} loads, not "
                f"{cls.__name__}; AutoLlava.from_pretrained loads either"
            )
        parts.config = kwargs.pop("config", None) or parts.config
        refuse_quantising_again(parts.config, kwargs.get("quantization_config"), name)
        choose_compression(parts, compression)
        check_tensors(parts, cls)
        made = cls.from_state(parts.config, parts.state, **kwargs)
        finish_model(made[0] if isinstance(made, tuple) else made, parts, name)
        return made

    def load_adapter(self, peft_model_id: Any = None, adapter_name: str | None = None, **kwargs: Any) -> Any:
        """Transformers' `load_adapter`, for adapters of any age and origin.

        transformers knows the names that layers had in earlier versions for its own classes only.

        Args:
            peft_model_id: A folder, or a repository on the Hub.
            adapter_name: What it is called here.
            **kwargs: For transformers' `load_adapter`.

        Raises:
            CheckpointError: The adapter has no tensors for layers that its config adapts, or others than these.
        """
        if peft_model_id is None or kwargs.get("adapter_state_dict") is not None:
            return super().load_adapter(peft_model_id, adapter_name, **kwargs)  # type: ignore[misc]
        hub = {**(kwargs.pop("adapter_kwargs", None) or {})}
        folder = resolve_checkpoint(peft_model_id, **take_hub_options(hub)) / hub.pop("subfolder", "")
        kwargs["adapter_state_dict"] = adapter_tensors(folder, tower_root(self.state_dict()))  # type: ignore[attr-defined]
        info = super().load_adapter(str(folder), adapter_name, **kwargs)  # type: ignore[misc]
        own = f".{adapter_name or 'default'}."  # transformers also counts what other adapters of the model hold
        missing = [name for name in info.missing_keys if own in f"{name}."]
        wrong = {"missing": missing, "unexpected": info.unexpected_keys}
        problems = [f"{label} ({len(names)}): {some(names)}" for label, names in wrong.items() if names]
        if problems:
            self.delete_adapter(adapter_name or "default")  # type: ignore[attr-defined]
            raise CheckpointError(f"{folder}: the adapter was trained on another model; {'; '.join(problems)}")
        entries = optional_json(folder, "config.json")
        trained_under, own = entries.get("compression", self.config.compression), self.config.compression  # type: ignore[attr-defined]
        trained_range = TunedRange.from_config(entries)
        if trained_under != own and not (trained_range is not None and trained_range.holds(as_compression(own))):
            logger.warning(
                "%s was trained under compression %s, and the model has %s; call model.set_compression to agree",
                folder,
                trained_range or "none",
                as_compression(own) or "none",
            )
        return info

    def save_pretrained(self, save_directory: Any, *args: Any, state_dict: Any = None, **kwargs: Any) -> None:
        """Transformers' `save_pretrained`, with the tensor names of the published llava-hf checkpoints."""
        if getattr(self, "_hf_peft_config_loaded", False):  # then the adapters alone are written, in peft's format
            super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)  # type: ignore[misc]
            self.config.save_pretrained(save_directory)  # type: ignore[attr-defined]  # with the compression
            return
        own = self.state_dict() if state_dict is None else state_dict  # type: ignore[attr-defined]
        prefix = tower_kind(self.config.vision_config).file_prefix  # type: ignore[attr-defined]
        names = transformers_names(prefix, family_of(self.config).tower_in_files)  # type: ignore[attr-defined]
        renamed = to_file_names(own, names, tower_root(own))
        super().save_pretrained(  # type: ignore[misc]
            save_directory, *args, state_dict=renamed, save_original_format=False, **kwargs
        )
