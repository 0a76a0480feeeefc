"""What values of flags are possible: checked before they are used, so that an error names the flag."""

from __future__ import annotations

import math
from dataclasses import Field, fields
from typing import Any

_AT_LEAST: dict[str, float] = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "global_batch_size": 1,
    "lora_alpha": 1,
    "save_total_limit": 1,
    "max_steps": 1,
    "warmup_steps": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "mm_projector_lr": 0,
    "dataloader_num_workers": 0,
    "seed": 0,
    "data_seed": 0,
    "distill_weight": 0,
}
_ABOVE_ZERO = frozenset(
    {"learning_rate", "num_train_epochs", "logging_steps", "save_steps", "eval_steps", "peak_tflops", "data_fraction"}
    | {"compression_share", "distill_temperature"}
)
_AT_MOST: dict[str, float] = {
    "seed": 2**32 - 1,
    "data_seed": 2**32 - 1,
    "data_fraction": 1,
    "compression_share": 1,
    "distill_weight": 1,
}


def check_values(arguments: Any) -> None:
    """Looks at the flags of a dataclass.

    Raises:
        ValueError: A text holds a NUL, or a number is not finite, too small or too large. Names flag and value.
    """
    for entry in fields(arguments):
        if entry.init:
            _check(entry, getattr(arguments, entry.name))


def _check(entry: Field[Any], value: Any) -> None:
    name = entry.name
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"--{name} {value!r} holds a NUL, which no name has")
    if isinstance(value, bool) or not isinstance(value, int | float) or value == entry.default:
        return
    if not math.isfinite(value):
        raise ValueError(f"--{name} {value} is no finite number")
    least = _AT_LEAST.get(name)
    if least is not None and value < least:
        raise ValueError(f"--{name} {value} must be at least {least:g}")
    if name in _ABOVE_ZERO and value <= 0:
        raise ValueError(f"--{name} {value} must be above 0")
    if value > _AT_MOST.get(name, math.inf):
        raise ValueError(f"--{name} {value} must be at most {_AT_MOST[name]:.10g}")
