"""What makes two runs the same run: everything that their result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.data.subset import content_hash, hash_file
from llava.model.checkpoints.files import projector_file, resolve_checkpoint, weight_files
from llava.model.checkpoints.lora import adapter_file
from llava.model.configuration import as_compression
from llava.model.used_plugins import model_plugins, records_of
from llava.train.arguments import Arguments
from llava.train.start import is_llava_checkpoint
from llava.train.template import first_name

KEY_NAME = "run_key.json"

_TRAINING_FLAGS = (
    "learning_rate",
    "mm_projector_lr",
    "num_train_epochs",
    "max_steps",
    "lr_scheduler_type",
    "warmup_steps",
    "lr_scheduler_kwargs",
    "weight_decay",
    "optim",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "neftune_noise_alpha",
    "average_tokens_across_devices",
    "max_grad_norm",
    "seed",
    "data_seed",
    "train_sampling_strategy",
    "group_by_modality_length",
    "group_by_length",
    "model_max_length",
    "bf16",
    "fp16",
)
_ADAPTER_FLAGS = ("lora_r", "lora_alpha", "lora_dropout", "lora_bias", "bits")
_4_BIT_FLAGS = ("double_quant", "quant_type")


def run_key(arguments: Arguments, config: Any, records: Sequence[Any]) -> dict[str, Any]:
    """The key of a run: flat, ready for JSON, each entry by the flag it comes from.

    Files are known by their content, those of the model by its config and the sizes of its weights.

    Args:
        arguments: Of the run.
        config: Of the model as it will be trained; it knows what the flags leave to the checkpoint.
        records: What is trained on, of `open_records`; a part of a table knows the whole.
    """
    model, data, training = arguments.model, arguments.data, arguments.training
    adapter = model.pretrain_mm_mlp_adapter
    tower = None if is_llava_checkpoint(model.model_name_or_path) else model.vision_tower  # else it is not read
    at_once = training.per_device_train_batch_size * training.world_size
    key = {
        "--stage": f"{arguments.stage.name} ({', '.join(sorted(arguments.stage.trained))})",
        "--model_name_or_path": str(Path(model.model_name_or_path)),
        "files of --model_name_or_path": _fingerprint(resolve_checkpoint(model.model_name_or_path)),
        "--vision_tower": tower,
        "files of --vision_tower": tower and _fingerprint(resolve_checkpoint(tower)),
        "--mm_projector_type": model.mm_projector_type,
        "--mm_vision_select_layer": getattr(config, "vision_feature_layer", None),
        "--mm_vision_select_feature": getattr(config, "vision_feature_select_strategy", None),
        "--mm_patch_merge_type": getattr(config, "mm_patch_merge_type", None),
        "--image_grid_pinpoints": getattr(config, "image_grid_pinpoints", None),
        "--pretrain_mm_mlp_adapter": None if adapter is None else _hash_projector(Path(adapter)),
        "--compression": getattr(config, "compression", None),
        "--version": model.version and first_name(model.version),
        "--image_aspect_ratio": getattr(config, "image_aspect_ratio", None),
        "content of --data_path": content_hash(data.data_path, records),
        "--data_fraction": data.data_fraction,
        "--global_batch_size": at_once * training.gradient_accumulation_steps,
        **{f"--{name}": getattr(training, name) for name in _flags_of(arguments)},
    }
    key |= {f"--{name}": value for name, value in training.tuning_flags().items()}
    names = model_plugins(config, as_compression(getattr(config, "compression", None)), model.version or "")
    if plugins := records_of(names):  # keys of runs without any stay what they were
        key["--plugin"] = plugins
    plain: dict[str, Any] = json.loads(json.dumps(key, default=str))  # as it will be read again
    return plain


def _flags_of(arguments: Arguments) -> tuple[str, ...]:
    adapter_flags = _ADAPTER_FLAGS if arguments.stage.has_adapters else ()
    return _TRAINING_FLAGS + adapter_flags + (_4_BIT_FLAGS if arguments.training.bits == 4 else ())


def write_key(folder: Path, key: Mapping[str, Any]) -> None:
    """Writes a key beside the weights of a checkpoint."""
    (folder / KEY_NAME).write_text(json.dumps(key, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def difference_from(checkpoint: Path, key: Mapping[str, Any]) -> str | None:
    """How the run of a checkpoint differs from this one, in words; None if they are the same."""
    file = checkpoint / KEY_NAME
    if not file.is_file():
        return f"it has no {KEY_NAME}"
    found = json.loads(file.read_text(encoding="utf-8"))
    names = [name for name in {**key, **found} if key.get(name) != found.get(name)]
    return ", ".join(f"{name} was {found.get(name)}, is {key.get(name)}" for name in names) or None


def _fingerprint(folder: Path) -> str:
    others = [file for file in (projector_file(folder), adapter_file(folder)) if file is not None]
    files = [*weight_files(folder), *others]
    sizes = json.dumps([(file.name, file.stat().st_size) for file in files])
    return hashlib.sha256((folder / "config.json").read_bytes() + sizes.encode()).hexdigest()


def _hash_projector(path: Path) -> str | None:
    file = projector_file(path) if path.is_dir() else path
    return None if file is None else hash_file(file)
