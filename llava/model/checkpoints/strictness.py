"""Strict checks of a checkpoint, before a model is made of it."""

from __future__ import annotations

import logging
from typing import Any

import torch

from llava.model.checkpoints.parts import ModelParts
from llava.model.checkpoints.quantised import packed_weights
from llava.model.checkpoints.skeleton import expected_shapes
from llava.model.configuration import CompressionLike, Stored, as_compression, store_compression
from llava.model.image_rules import ImageRules
from llava.small_files import CheckpointError

logger = logging.getLogger(__name__)

_MAX_NAMED = 8
_WEIGHT_DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16}


def choose_compression(parts: ModelParts, compression: CompressionLike | Stored) -> None:
    """Sets what the caller asks for, or leaves what the config says.

    Args:
        parts: Of the checkpoint; its config is changed.
        compression: See `load_pretrained_model`.

    Raises:
        ValueError: What the caller asks for is malformed, of an unknown method, or does not fit the tower.
        CheckpointError: The same of the config's.
    """
    if isinstance(compression, Stored):
        if not parts.tells_compression:
            logger.warning(
                "%s does not say which compression it was trained under; its base's is used (%s). Give compression= to "
                "say another one, None for all visual tokens",
                parts.source,
                getattr(parts.config, "compression", None) or "none",
            )
        check_compression(parts)
        return
    budget = as_compression(compression)
    _image_rules(parts).check(budget, parts.config.text_config)
    store_compression(parts.config, budget)


def check_compression(parts: ModelParts) -> None:
    """Checks the compression that a config asks for.

    Raises:
        CheckpointError: It is malformed, of an unknown method, or does not fit the tower; or what the config says of
            images is malformed.
    """
    value = getattr(parts.config, "compression", None)
    rules = _image_rules(parts)
    try:
        rules.check(as_compression(value), parts.config.text_config)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{parts.source}: config.json: compression {value!r}: {error}. Mend the entry, or load with compression= "
            "another one, None for all visual tokens"
        ) from error


def _image_rules(parts: ModelParts) -> ImageRules:
    try:
        return ImageRules.from_config(parts.config)
    except ValueError as error:
        raise CheckpointError(f"{parts.source}: config.json: {error}") from error


def check_tensors(parts: ModelParts, model_class: type[Any]) -> None:
    """Compares the tensors with what the config calls for.

    Args:
        parts: Of the checkpoint.
        model_class: Makes a model of the config.

    Raises:
        CheckpointError: Tensors are missing, unexpected, of another shape, or quantised without the config's
            `quantization_config`; all of them are counted, some named. Or the config's compression does not fit.
    """
    check_compression(parts)
    expected = expected_shapes(parts.config, model_class, parts.source)
    packed = packed_weights(parts.config, parts.state, parts.source)
    tied = {"lm_head.weight"} if parts.config.get_text_config().tie_word_embeddings else set()
    missing = [
        name
        for name in expected
        if name not in parts.state and name not in tied and not name.startswith(parts.may_start_at_random or ("\0",))
    ]
    unexpected = [name for name in parts.state if packed.get(name, name) not in expected]
    misshapen = [
        f"{name} is {value.shape}, the config says {expected[name]}"
        for name, value in parts.state.items()
        if name in expected and name not in packed.values() and value.shape != expected[name]
    ]
    is_quantised = getattr(parts.config, "quantization_config", None) is not None
    scaleless = [  # a cast would take their integers for values
        f"{name} is {value.dtype}"
        for name, value in parts.state.items()
        if name in expected and not is_quantised and value.dtype not in _WEIGHT_DTYPES
    ]
    problems = [
        f"{label} ({len(names)}): {', '.join(sorted(names)[:_MAX_NAMED])}{', ...' if len(names) > _MAX_NAMED else ''}"
        for label, names in (
            ("missing tensors", missing),
            ("unexpected tensors", unexpected),
            ("tensors of another shape", misshapen),
            ("tensors of a quantised dtype, and no quantization_config", scaleless),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{parts.source}: the weights do not fit config.json. " + "; ".join(problems))
