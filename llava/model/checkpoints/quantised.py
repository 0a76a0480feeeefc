"""Checkpoints whose files are quantised already, by bitsandbytes: what belongs to which weight, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llava.model.quantization import import_bitsandbytes
from llava.small_files import CheckpointError

# What bitsandbytes stores beside a weight of 4 bits, and beside one of 8.
_BESIDE = re.compile(
    r"(.+\.weight)\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__\w+)"
    r"|(.+)\.(?:SCB|weight_format)"
)
_HINT = "load the model that it was made of, with load_4bit=True or load_8bit=True (--load-4bit, --load-8bit)"


def is_quantised(config: Any) -> bool:
    """Whether a config says that the weights of its files are quantised."""
    return getattr(config, "quantization_config", None) is not None


def packed_weights(config: Any, names: Iterable[str], where: Path) -> dict[str, str]:
    """The quantised weights of a checkpoint, whose tensors have another shape than the config says.

    Args:
        config: Of the model.
        names: Of the checkpoint's tensors, as the module has them.
        where: Its folder, for the message.

    Returns:
        Name of each tensor that stands beside a weight -> name of the weight.

    Raises:
        CheckpointError: They are quantised in another way, or bitsandbytes cannot be used here.
    """
    if is_quantised(config.get_text_config()):
        raise CheckpointError(f"{where}: config.json: text_config.quantization_config is not loaded here; {_HINT}")
    if not is_quantised(config):
        return {}
    method = quantisation_method(config)
    if method != "bitsandbytes":
        raise CheckpointError(f"{where}: config.json: quantization_config: {method!r} is not loaded here; {_HINT}")
    if not import_bitsandbytes():
        raise CheckpointError(
            f"{where}: config.json: quantization_config asks for bitsandbytes, which cannot be imported here: install "
            f"it, or {_HINT}"
        )
    found = ((name, _BESIDE.fullmatch(name)) for name in names)
    packed = {name: match[1] or f"{match[2]}.weight" for name, match in found if match is not None}
    if not packed:
        raise CheckpointError(
            f"{where}: config.json: quantization_config says that the weights are quantised, and the files hold plain "
            "ones; take the entry out, and load with load_4bit=True or load_8bit=True (--load-4bit, --load-8bit)"
        )
    return packed


def quantisation_method(config: Any) -> str:
    """How a config says that its weights are quantised; bitsandbytes' first configs name no method."""
    entries = config.quantization_config
    given = entries if isinstance(entries, dict) else entries.to_dict()
    is_bitsandbytes = given.get("load_in_4bit") or given.get("load_in_8bit")
    return str(given.get("quant_method") or ("bitsandbytes" if is_bitsandbytes else None))


def refuse_quantising_again(config: Any, asked: Any, where: Any) -> None:
    """Raises CheckpointError where weights that are quantised already would be quantised, which has no effect.

    Args:
        config: Of the model.
        asked: transformers' settings of a quantisation, None for none.
        where: The checkpoint's folder, for the message.
    """
    if asked is not None and is_quantised(config):
        raise CheckpointError(
            f"{where}: config.json: quantization_config: the weights are quantised already, and load_4bit, load_8bit "
            f"or quantization_config cannot quantise them again; leave that out, or {_HINT}"
        )


def refuse_merging(config: Any, folder: Path, base: Path) -> None:
    """Raises CheckpointError where adapters would be merged into weights that are quantised already."""
    if is_quantised(config):
        raise CheckpointError(
            f"{folder} on {base}: the base is quantised, and adapters are merged into weights that are not; name the "
            "model that it was made of as model_base, and quantise the sum with load_4bit=True"
        )
