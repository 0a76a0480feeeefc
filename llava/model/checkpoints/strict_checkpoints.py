"""Reading and writing checkpoints: transformers' methods, strict about tensors, with the names of published files."""

from __future__ import annotations

from collections.abc import Mapping
from threading import RLock
from typing import Any

from transformers.integrations import is_deepspeed_zero3_enabled

from llava.kinds.towers import tower_kind
from llava.model.checkpoints.files import CheckpointError, resolve_checkpoint
from llava.model.checkpoints.names import to_file_names, tower_root, transformers_names
from llava.model.checkpoints.parts import parts_of_checkpoint, set_generation_config
from llava.model.checkpoints.stored_tensor import StoredTensor
from llava.model.checkpoints.strictness import check_tensors
from llava.model.configuration import STORED, CompressionLike, Stored, store_compression

# transformers replaces methods of its classes while it loads: two threads at once would leave it so, and from then on
# no head of the process would be tied to its embedding.
_LOADING = RLock()
_HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")


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
        hub = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
        folder = resolve_checkpoint(pretrained_model_name_or_path, **hub) / kwargs.pop("subfolder", "")
        parts = parts_of_checkpoint(folder)
        found, wanted = parts.config.model_type, cls.config_class.model_type  # type: ignore[attr-defined]
        if found != wanted:
            raise CheckpointError(
                f"{pretrained_model_name_or_path}: holds a {found}, and a {cls.__name__} is a {wanted}"
            )
        parts.config = kwargs.pop("config", None) or parts.config
        store_compression(parts.config, compression)
        check_tensors(parts, cls)
        made = cls.from_state(parts.config, parts.state, **kwargs)
        set_generation_config(made[0] if isinstance(made, tuple) else made, parts)
        return made

    def save_pretrained(self, save_directory: Any, *args: Any, state_dict: Any = None, **kwargs: Any) -> Any:
        """Transformers' `save_pretrained`, with the tensor names of the published llava-hf checkpoints."""
        if getattr(self, "_hf_peft_config_loaded", False):  # then the adapters alone are written, in peft's format
            return super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)  # type: ignore[misc]
        own = self.state_dict() if state_dict is None else state_dict  # type: ignore[attr-defined]
        prefix = tower_kind(self.config.vision_config).file_prefix  # type: ignore[attr-defined]
        renamed = to_file_names(own, transformers_names(prefix), tower_root(own))
        return super().save_pretrained(  # type: ignore[misc]
            save_directory, *args, state_dict=renamed, save_original_format=False, **kwargs
        )
