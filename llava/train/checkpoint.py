"""What a run leaves behind, and where it goes on."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llava.train.arguments import Arguments
from llava.train.run_key import difference_from
from llava.train.stages import Stage

logger = logging.getLogger(__name__)

ARGUMENTS_NAME = "training_args.json"
_STATE_NAME = "trainer_state.json"  # the trainer writes it last, so a checkpoint that has one is whole


def checkpoint_to_resume(output_dir: str | Path, asked: str | None, key: Mapping[str, Any]) -> str | None:
    """Where to go on.

    Args:
        output_dir: Of the run.
        asked: `--resume_from_checkpoint`: a folder; `auto` or nothing for the last whole checkpoint of `output_dir`,
            as LLaVA does; `none` to start anew.
        key: Of the run, from `run_key`: the checkpoint must be of the same run.

    Raises:
        ValueError: The folder is no whole checkpoint, or the checkpoint is of another run.
    """
    if asked is not None and asked.lower() in ("none", "false"):
        return None
    if asked is None or asked.lower() in ("auto", "true"):
        found = _last_checkpoint(Path(output_dir))
        if found is None:
            return None
    else:
        found = Path(asked)
        if not (found / _STATE_NAME).is_file():
            raise ValueError(f"--resume_from_checkpoint {asked} is no whole checkpoint: it has no {_STATE_NAME}")
    difference = difference_from(found, key)
    if difference is not None:
        raise ValueError(
            f"{found} is of another run ({difference}); choose another --output_dir, "
            "or start anew with --resume_from_checkpoint none"
        )
    logger.info("resuming from %s", found)
    return str(found)


def _last_checkpoint(output_dir: Path) -> Path | None:
    found = {
        int(path.name.rpartition("-")[2]): path
        for path in output_dir.glob("checkpoint-*")
        if path.name.rpartition("-")[2].isdigit() and (path / _STATE_NAME).is_file()
    }
    return found[max(found)] if found else None


def save_result(
    directory: str | Path, model: Any, stage: Stage, arguments: Arguments, tokenizer: Any, image_processor: Any
) -> None:
    """Writes what the stage made, ready for `load_pretrained_model`, and the arguments it was made with.

    A stage that trains only the projector leaves `mm_projector.safetensors` and a config; another one a whole
    checkpoint in transformers' format.

    Args:
        directory: Made if it is not there.
        model: In the dtypes of training; what a whole checkpoint holds is written in the dtype of the run.
        stage: What was trained.
        arguments: Of the run.
        tokenizer: Saved with a whole checkpoint.
        image_processor: Saved with a whole checkpoint.
    """
    from llava.model.multimodal_projector import save_projector

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model.config.use_cache = True
    if stage.saves_projector_only:
        save_projector(model, directory, base_model=arguments.model.model_name_or_path)
    else:
        dtype = _dtype_of(arguments)
        state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
        model.config.dtype = dtype
        model.save_pretrained(directory, state_dict=state)
        tokenizer.save_pretrained(directory)
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


def _dtype_of(arguments: Arguments) -> torch.dtype:
    if arguments.training.bf16:
        return torch.bfloat16
    return torch.float16 if arguments.training.fp16 else torch.float32
