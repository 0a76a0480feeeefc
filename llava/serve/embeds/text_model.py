"""The language model of a LLaVA as a checkpoint of its own, which engines serve as any other: for `prompt_embeds`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from llava.model.processor_files import template_of
from llava.plain_loading import auto_language_model_of


def save_text_model(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Writes it, with tokenizer, chat template and generation settings, for plain transformers and engines.

    Args:
        model: A LLaVA model of this package, in no quantised form.
        tokenizer: Its tokenizer.
        folder: To write to; must not hold anything yet.

    Raises:
        ValueError: The folder is not empty, or the weights are quantised or not in memory.
    """
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path}: is there already; name a new folder for the language model")
    state = {f"model.{name}": value for name, value in model.model.language_model.state_dict().items()}
    state["lm_head.weight"] = model.lm_head.weight
    if getattr(model, "is_quantized", False) or any(value.is_meta for value in state.values()):
        raise ValueError("the language model is quantised or offloaded; load it whole: no --load-4bit, one device")
    with torch.device("meta"):
        plain = auto_language_model_of(model.config.get_text_config())
    plain.load_state_dict(state, assign=True)
    plain.generation_config = model.generation_config
    plain.save_pretrained(path)
    own = copy.deepcopy(tokenizer)
    own.chat_template = template_of(model.config, tokenizer)
    own.save_pretrained(path)
