"""What a checkpoint's small files say of its making: a table must not mix a tuned model with an untuned one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llava.model.checkpoints.config_of import config_of
from llava.model.checkpoints.files import CheckpointError, read_json, resolve_checkpoint
from llava.model.configuration import as_compression
from llava.model.stages import before_language_model
from llava.model.tuned_range import TunedRange

_TRAINING = "training_args.json"
_CONFIG = "config.json"


@dataclass(frozen=True)
class ModelOrigin:
    """How a checkpoint was made, as far as a table must know.

    Attributes:
        tuned_for: The compression that its weights were tuned under, in its short form, or the range of compressions,
            as `TunedRange` writes it; "" where the files name none.
        said_by: The file that says so, "" where none does.
    """

    tuned_for: str = ""
    said_by: str = ""


def origin_of(model_path: str | Path) -> ModelOrigin:
    """Reads what a training run leaves beside its weights, else the config's own entry; never the folder's name.

    Args:
        model_path: A folder, or a repository on the Hub, of which only the small files are fetched.

    Raises:
        CheckpointError: It is neither, or one of the files is damaged.
    """
    folder = resolve_checkpoint(model_path, weights=False)
    for name in (_TRAINING, _CONFIG):
        file = folder / name
        content = read_json(file) if file.is_file() else {}
        found = (content.get("model") or {}).get("compression") if name == _TRAINING else content.get("compression")
        try:
            budget = as_compression(found)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{file}: compression: {error}") from error
        # Neither a method inside the language model nor an adaptive budget is trained with.
        trained = before_language_model(budget)
        if trained is not None:
            tuned_for = _range_of(folder) or (str(trained) if trained.adaptive is None else "")
            return ModelOrigin(tuned_for, name if tuned_for else "")
    return ModelOrigin()


def _range_of(folder: Path) -> str | None:
    """The range of budgets that a config names; None without."""
    file = folder / _CONFIG
    content = read_json(file) if file.is_file() else {}
    if content.get("compression_range") is None:
        return None
    try:
        return str(TunedRange.from_config(content))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}") from error


__all__ = ["ModelOrigin", "config_of", "origin_of"]
