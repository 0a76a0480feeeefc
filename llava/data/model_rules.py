"""What the data need to know of a model, read from its small files: tokenizer, token counts. No weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.images.processing import aspect_ratio_of
from llava.model.checkpoints.config_adapter import is_llava_format, is_transformers_format, read_config
from llava.model.checkpoints.files import CheckpointError, read_json
from llava.model.configuration import as_compression
from llava.model.image_rules import ImageRules
from llava.plain_files import expanded
from llava.prompts.tokenization import load_tokenizer

ImageSize = tuple[int, int]
_SMALL_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class ModelRules:
    """How a model reads text and images.

    Attributes:
        tokenizer: Of `llava.prompts.tokenization.load_tokenizer`.
        count_visual_tokens: Sizes (w, h) of all images of a sample to tokens after compression.
        config: The model's; None if only a tokenizer is known.
    """

    tokenizer: Any
    count_visual_tokens: Callable[[Sequence[ImageSize]], list[int]]
    config: Any = None


def check_aspect_ratio(config: Any) -> None:
    """Raises ValueError, naming the flag, unless images can be processed as a model's config says."""
    try:
        aspect_ratio_of(config)
    except ValueError as error:
        raise ValueError(f"--image_aspect_ratio: {error}") from error


def rules_of_tokenizer(path: str | Path, num_visual_tokens: int) -> ModelRules:
    """The rules of a model that is not made yet: a language model's tokenizer, and as many tokens for every image."""
    return ModelRules(load_tokenizer(path), lambda sizes: [num_visual_tokens] * len(sizes))


def rules_of_model(path: str | Path, **options: Any) -> ModelRules:
    """The rules of a LLaVA checkpoint, in either format; from the Hub only its small files are fetched.

    Args:
        path: A folder or a repository.
        **options: `compression`, as for `load_pretrained_model`, where it is not the checkpoint's; and
            `image_aspect_ratio`, likewise.

    Raises:
        CheckpointError: It is no LLaVA checkpoint.
        ValueError: The compression does not fit the tower, or the aspect ratio the checkpoint.
    """
    folder = _small_files(path)
    raw = read_json(folder / "config.json")
    if not (is_transformers_format(raw) or is_llava_format(raw)):
        raise CheckpointError(
            f"{folder}: config.json: model_type {raw.get('model_type')!r} is not a LLaVA; for a language model give "
            "--tokenizer and --visual-tokens"
        )
    config: Any = read_config(folder)[0]
    if options.get("image_aspect_ratio") is not None:
        config.image_aspect_ratio = options["image_aspect_ratio"]
    check_aspect_ratio(config)
    compression = as_compression(options.get("compression", getattr(config, "compression", None)))
    rules = ImageRules.from_config(config)
    rules.check(compression, config.text_config)

    def counts(sizes: Sequence[ImageSize]) -> list[int]:
        return [rules.num_tokens(size, compression, beside_others=len(sizes) > 1) for size in sizes]

    return ModelRules(load_tokenizer(tokenizer_folder(folder)), counts, config)


def tokenizer_folder(folder: Path, above: tuple[Path, ...] = ()) -> Path:
    """The folder itself, or that of its base where only what was trained lies in it."""
    base = read_json(folder / "config.json").get("base_model_name_or_path")
    if base is None or folder in above or (folder / "tokenizer_config.json").is_file():
        return folder
    return tokenizer_folder(_small_files(base), (*above, folder))


def _small_files(path: str | Path) -> Path:
    """The folder of a checkpoint; of one on the Hub, without its weights.

    Raises:
        CheckpointError: It is neither a folder nor a repository that can be downloaded.
    """
    folder = expanded(path)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path), allow_patterns=_SMALL_FILES))
    except Exception as error:  # the Hub's own errors, those of its HTTP library, and the disk's
        raise CheckpointError(f"{path}: there is no such folder, and the Hub did not give it: {error}") from error
