"""What a processor reads of a checkpoint's folder: its place, and its chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN
from llava.entry_types import shown
from llava.images.processing import load_image_processor
from llava.kinds import PluginError
from llava.kinds.families import family_of
from llava.model.checkpoints.files import CheckpointError, read_json, resolve_checkpoint, take_hub_options
from llava.prompts.chat_template import chat_template
from llava.prompts.own_template import conv_mode_for
from llava.small_files import read_text

PROCESSOR_FILE = "processor_config.json"
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", PROCESSOR_FILE)


def open_small_files(path_or_repo: Any, options: dict[str, Any]) -> Path:
    """The folder of a checkpoint, of which a processor needs no weights.

    Args:
        path_or_repo: A folder, or a repository on the Hub.
        options: Of a `from_pretrained`: the Hub's, and `subfolder`.

    Raises:
        CheckpointError: It cannot be had.
        TypeError: An option is none of these.
    """
    subfolder = options.pop("subfolder", "")
    hub = take_hub_options(options)
    if options:
        raise TypeError(
            f"a processor's from_pretrained takes no {', '.join(options)}: images and texts are prepared as the model "
            "was trained; there are compression=, subfolder= and the Hub's options (revision, cache_dir, token, ...)"
        )
    return resolve_checkpoint(path_or_repo, weights=False, **hub) / subfolder


def image_processor_of(config: Any, folder: Path) -> Any:
    """The image processor of a model: its family's own, or that of a folder.

    Raises:
        CheckpointError: See `load_image_processor`.
    """
    own = family_of(config).own_image_processor(config)
    return load_image_processor(folder) if own is None else own


def saved_template(folder: Path) -> str | None:
    """The chat template that lies in a folder, as transformers of any age writes it.

    Raises:
        CheckpointError: It is no text; the message names file and entry.
    """
    for name in _TEMPLATE_FILES:
        if (folder / name).is_file():
            is_text = name.endswith(".jinja")
            template = read_text(folder / name) if is_text else _template_entry(folder / name)
            if template:
                return template
    return None


def _template_entry(file: Path) -> str | None:
    """The template that a JSON file holds: a text, or the default one of several that have names."""
    given = read_json(file).get("chat_template")
    if given is None or isinstance(given, str):
        return given
    named = given
    if isinstance(given, list):  # of objects with name and template, as transformers wrote several of them
        named = {entry.get("name"): entry.get("template") for entry in given if isinstance(entry, dict)}
    default = named.get("default") if isinstance(named, dict) else None
    if not isinstance(default, str):
        raise CheckpointError(
            f"{file}: chat_template is {shown(given)}, and must be a text, or several by name with one named 'default'"
        )
    return default


def template_of(config: Any, tokenizer: Any) -> str | None:
    """The chat template of the conversation that a model was tuned with, None if that is not known."""
    try:
        mode = conv_mode_for(config, tokenizer)
    except PluginError:
        raise
    except ValueError:
        return None
    marked = getattr(config, "mm_use_im_start_end", False)
    image = DEFAULT_IM_START_TOKEN + DEFAULT_IMAGE_TOKEN + DEFAULT_IM_END_TOKEN if marked else DEFAULT_IMAGE_TOKEN
    return chat_template(mode, image)
