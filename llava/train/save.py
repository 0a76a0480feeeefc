"""What a stage leaves behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from llava.model.llava_config import entries_without_place
from llava.model.multimodal_projector import save_projector
from llava.prompts.tokenization import copy_sentencepiece
from llava.train.adapters import save_adapter, write_adapter_config
from llava.train.arguments import Arguments
from llava.train.stages import Stage
from llava.train.start import run_dtype
from llava.train.weights import trained_names

ARGUMENTS_NAME = "training_args.json"


def names_of_result(model: Any, stage: Stage) -> set[str] | None:
    """The tensors that `save_result` writes; None for all."""
    if not (stage.saves_projector_only or stage.has_adapters):
        return None
    return trained_names(model) | {name for name, _ in model.named_parameters() if "multi_modal_projector" in name}


def save_result(
    directory: str | Path,
    model: Any,
    state: Mapping[str, Tensor],
    stage: Stage,
    arguments: Arguments,
    tokenizer: Any,
    image_processor: Any,
) -> None:
    """Writes what the stage made, ready for `load_pretrained_model`, and the arguments it was made with.

    A stage that trains only the projector leaves `mm_projector.safetensors` and a config; one with adapters these and
    the adapters in peft's format; another one a whole checkpoint in transformers' format.

    Args:
        directory: Made if it is not there.
        model: Its config is written.
        state: Its tensors, those of `names_of_result`, in the dtypes of training; what a whole checkpoint holds is
            written in the dtype of the run.
        stage: What was trained.
        arguments: Of the run.
        tokenizer: Saved with a whole checkpoint.
        image_processor: Saved with a whole checkpoint.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    base = arguments.model.model_name_or_path
    model.config.use_cache = True
    if stage.saves_projector_only:
        save_projector(model, directory, base_model=base, state=state)
    elif stage.has_adapters:
        save_projector(model, directory, base_model=base, state=state, newline=True)
        save_adapter(model, directory, state, base_model=base)
    else:
        dtype = run_dtype(arguments)
        model.config.dtype = dtype
        model.save_pretrained(directory, state_dict={name: tensor.to(dtype) for name, tensor in state.items()})
        tokenizer.save_pretrained(directory)
        copy_sentencepiece(tokenizer, directory)
        image_processor.save_pretrained(directory)
    write_arguments(directory, arguments)
    share_weights(directory, like=ARGUMENTS_NAME)


def write_arguments(directory: str | Path, arguments: Arguments) -> None:
    """Writes the arguments of a run as JSON."""
    text = json.dumps(arguments.to_dict(), indent=2, ensure_ascii=False, sort_keys=True, default=str)
    (Path(directory) / ARGUMENTS_NAME).write_text(text + "\n", encoding="utf-8")


def share_weights(directory: Path, like: str) -> None:
    """Gives the weights the mode of another file of the folder.

    safetensors writes files that only their owner can read, whatever the umask.
    """
    for file in directory.glob("*.safetensors"):
        shutil.copymode(directory / like, file)


def describe_checkpoint(folder: Path, model: Any, stage: Stage, base_model: str | Path) -> None:
    """Writes what `load_pretrained_model` needs beside the trained tensors of a checkpoint under way."""
    entries = {**entries_without_place(model.config), "base_model_name_or_path": str(base_model)}
    (folder / "config.json").write_text(json.dumps(entries, indent=2, sort_keys=True, default=str) + "\n", "utf-8")
    if stage.has_adapters:
        write_adapter_config(model, folder, base_model)
