"""A checkpoint as plain transformers loads it: the layout of the published llava-hf folders."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import transformers
from transformers import PreTrainedTokenizerBase

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN
from llava.hub.formats.export_source import HEAD, ExportSource
from llava.hub.formats.vocabulary import AddedRows, add_image_token
from llava.hub.json_file import optional_json, write_json
from llava.hub.staging import VIDEO_PROCESSOR
from llava.images.processing import load_image_processor
from llava.kinds import PluginError
from llava.kinds.families import family_of
from llava.kinds.towers import tower_kind
from llava.model.checkpoints.files import CheckpointError
from llava.model.checkpoints.names import to_file_names, transformers_names
from llava.model.checkpoints.stored_tensor import StoredTensor
from llava.model.image_rules import ImageRules
from llava.model.projector_types import USUAL, projector_type
from llava.model.stages import before_language_model
from llava.prompts.chat_template import chat_template
from llava.prompts.own_template import conv_mode_for
from llava.prompts.tokenization import text_begins_anew_after_images

_PIXEL_SETTINGS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std", "do_convert_rgb"),
)
# What transformers 5 notes in a tokenizer's config about the machine it was loaded on.
_NOT_THE_TOKENIZERS = ("backend", "is_local", "local_files_only", "name_or_path", "vocab_file", "_commit_hash")


@dataclass(frozen=True)
class Layout:
    """What one format makes of a source.

    Attributes:
        tensors: By the names they have in the files.
        notes: Sentences that a user who releases it should know.
        rows: Rows of the vocabulary that were added (hf) or dropped (llava).
    """

    tensors: dict[str, StoredTensor]
    notes: tuple[str, ...] = ()
    rows: AddedRows | None = None


def write_hf(source: ExportSource, folder: Path) -> Layout:
    """Writes all files but the weights, and says which tensors belong to them.

    Args:
        source: From `open_source`; its config and tensors are changed.
        folder: Where to.

    Raises:
        CheckpointError: Plain transformers cannot run the model as it was trained; the message names the entry.
    """
    config = source.config
    family = family_of(config)
    if family.transformers_model is None:
        reason = family.no_transformers or "it has no class for it"
        raise CheckpointError(
            f"{source.folder}: config.json: model_type {config.model_type!r}: plain transformers cannot run a "
            f"{family.name}: {reason}"
        )
    _refuse_other_merges(source)
    if projector_type(config) != USUAL:
        raise CheckpointError(
            f"{source.folder}: config.json: mm_projector_type {projector_type(config)!r}: plain transformers has "
            f"{USUAL!r} only; use --to llava"
        )
    notes = list(_notes_on_compression(source))
    tokenizer = source.tokenizer()
    rows = add_image_token(source.tensors, config, tokenizer)
    if rows is not None:
        notes.append(
            f"The vocabulary rows {rows.first} to {rows.end - 1} ({', '.join(rows.tokens) or 'no token'}) were added "
            "for plain transformers, as in llava-hf's checkpoints; each is the mean of the trained rows."
        )
    if family_of(config).is_tiled and getattr(config, "anyres_rule", None) == "llava":
        notes.append(
            "Plain transformers rounds the rows left after unpadding in its own way: for a few image sizes "
            "(such as 704 x 396) it gives the model two rows of tokens more than LLaVA and this package do."
        )
    if source.parts.unused:
        notes.append(f"Tensors that the model does not use were left out: {', '.join(source.parts.unused)}.")
    entries = config_entries(source, notes)
    write_json(folder / "config.json", entries)
    write_generation_config(source, folder, tokenizer.pad_token_id)
    template = _chat_template(config, tokenizer, notes)
    _write_tokenizer(tokenizer, source, folder)
    _write_processor(source, folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    prefix = tower_kind(config.vision_config).file_prefix
    return Layout(to_file_names(source.tensors, transformers_names(prefix), source.tower), tuple(notes), rows)


def _refuse_other_merges(source: ExportSource) -> None:
    config = source.config
    merge = getattr(config, "mm_patch_merge_type", None)
    ratio = getattr(config, "image_aspect_ratio", None)
    family = family_of(config)
    known = re.fullmatch(family.transformers_ratio, ratio or family.aspect_ratio or "")
    if family.is_tiled and (merge not in (None, "spatial_unpad") or known is None):
        raise CheckpointError(
            f"{source.folder}: config.json: mm_patch_merge_type {merge!r} with image_aspect_ratio {ratio!r}: plain "
            f"transformers' {family.model_type} knows 'spatial_unpad' with {family.transformers_ratio!r} only and "
            "would answer from other tokens; use --to llava"
        )


def _notes_on_compression(source: ExportSource) -> list[str]:
    if source.compression is None:
        return []
    budget = before_language_model(source.compression)
    if budget is None:
        return [
            f"config.json says {source.compression}. Plain transformers ignores the entry `compression`, and all its "
            "layers read every visual token. Load with this package for layers that read fewer."
        ]
    vision = source.config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    most = "" if budget.adaptive is None else "at most "
    return [
        f"The model belongs to {budget}: {most}{budget.num_tokens} visual tokens a tile. Plain transformers ignores "
        f"the entry `compression` and runs all {patches}: a projector that was tuned with the compression is then off "
        "its training condition. Load with this package to run it as it was tuned."
    ]


def config_entries(source: ExportSource, notes: list[str]) -> dict[str, Any]:
    """Transformers' config.json, `compression` in it, without paths of this machine.

    Args:
        source: Whose config.
        notes: Gets a sentence for every entry that is left out.
    """
    config = source.config
    entries = json.loads(config.to_json_string(use_diff=True))
    family = family_of(config)
    entries["architectures"] = [family.transformers_model]
    entries["model_type"] = getattr(transformers, str(family.transformers_model)).config_class.model_type
    entries["dtype"] = main_dtype(source.tensors)
    if hasattr(config, "vision_aspect_ratio"):
        entries["vision_aspect_ratio"] = config.image_aspect_ratio
    budget = source.compression
    entries["compression"] = None if budget is None else budget.to_dict()
    for name in ("base_model_name_or_path", "quantization_config", "_name_or_path"):
        entries.pop(name, None)
    kept: dict[str, Any] = without_local_paths(entries, source.folder, notes)
    return kept


def without_local_paths(entries: Any, folder: Path, notes: list[str], where: str = "") -> Any:
    """Entries of a config, those inside of others too, without the paths that mean nothing on another machine.

    Args:
        entries: An object, a list, or a value.
        folder: From which a relative path may be meant.
        notes: Gets a sentence for every entry that is left out.
        where: Name of the entry.
    """
    if not isinstance(entries, dict | list):
        return entries
    pairs = entries.items() if isinstance(entries, dict) else enumerate(entries)
    kept = {}
    for key, value in pairs:
        name = f"{where}.{key}" if where else str(key)
        if not is_local_path(value, folder):
            kept[key] = without_local_paths(value, folder, notes, name)
        elif key != "_name_or_path":  # which transformers notes on every loading
            notes.append(f"config.json: {name} named a place on the exporting machine and was left out.")
    return kept if isinstance(entries, dict) else list(kept.values())


def is_local_path(value: Any, folder: Path | None = None) -> bool:
    """Whether an entry is a path, which means nothing on another machine.

    Args:
        value: Of the entry.
        folder: From which a relative path may be meant, beside the working directory.
    """
    if not isinstance(value, str):
        return False
    is_absolute = PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
    if is_absolute or value.startswith(("./", "../", "~")):
        return True
    # A word alone, such as "pad", is none, whatever the working directory holds.
    return "/" in value and any((place / value).is_dir() for place in (Path(), folder) if place is not None)


def main_dtype(tensors: dict[str, StoredTensor]) -> str:
    """The dtype of most of the language model's bytes, as config.json spells it; a tower may have another."""
    sizes: Counter[str] = Counter()
    for name, tensor in tensors.items():
        if name.startswith("model.language_model.") or name == HEAD:
            sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.num_bytes
    return sizes.most_common(1)[0][0]


def write_generation_config(source: ExportSource, folder: Path, pad_token_id: int | None) -> None:
    """Writes the published generation settings, without those that contradict themselves."""
    from transformers import GenerationConfig

    text = source.config.text_config
    entries = optional_json(source.parts.tokenizer_folder, "generation_config.json")
    entries = entries or {"bos_token_id": text.bos_token_id, "eos_token_id": text.eos_token_id}
    if not entries.get("do_sample"):  # LLaVA's say temperature and top_p but not do_sample; saving that is an error
        entries = {name: value for name, value in entries.items() if name not in ("temperature", "top_p", "top_k")}
    entries["pad_token_id"] = pad_token_id
    entries.pop("transformers_version", None)
    GenerationConfig.from_dict(entries).save_pretrained(folder)


def _chat_template(config: Any, tokenizer: Any, notes: list[str]) -> str | None:
    try:
        conv_mode = conv_mode_for(config, tokenizer)
    except PluginError:
        raise
    except ValueError as error:
        notes.append(f"No chat template was written: {error}")
        return None
    image = DEFAULT_IMAGE_TOKEN
    if config.mm_use_im_start_end:
        image = f"{DEFAULT_IM_START_TOKEN}{image}{DEFAULT_IM_END_TOKEN}"
    return chat_template(conv_mode, image)


def _write_tokenizer(tokenizer: PreTrainedTokenizerBase, source: ExportSource, folder: Path) -> None:
    """Writes the tokenizer so that any transformers takes its rules from tokenizer.json, and pads on the left."""
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings = {name: value for name, value in settings.items() if name not in _NOT_THE_TOKENIZERS}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left"}
    settings |= {"processor_class": family_of(source.config).transformers_processor}
    write_json(file, settings)
    if getattr(source.config, "anyres_rule", None) == "llava":
        text_begins_anew_after_images(folder / "tokenizer.json")
    sentencepiece = source.parts.tokenizer_folder / "tokenizer.model"
    if sentencepiece.is_file():
        shutil.copyfile(sentencepiece, folder / sentencepiece.name)  # for the way back to LLaVA's format


def _write_processor(source: ExportSource, folder: Path) -> None:
    config = source.config
    own = load_image_processor(source.parts.processor_folder)
    fields = own.to_dict()
    entries = {name: fields[name] for name in _PIXEL_SETTINGS if fields.get(name) is not None}
    ratio = getattr(config, "image_aspect_ratio", None)
    entries["processor_class"] = family_of(config).transformers_processor
    family = family_of(config)
    if family.is_tiled:
        entries |= {"image_processor_type": str(family.transformers_tiles).removesuffix("Pil"), "do_pad": True}
        entries["image_grid_pinpoints"] = [list(pair) for pair in config.image_grid_pinpoints]
    elif ratio == "pad":
        entries |= {"image_processor_type": "LlavaImageProcessor", "do_pad": True}
    else:
        entries["image_processor_type"] = type(own).__name__.removesuffix("Pil")
    named = getattr(transformers, f"{entries['image_processor_type']}Pil")
    if getattr(named, "do_center_crop", None) and not getattr(own, "do_center_crop", None):  # SigLIP's crops nothing
        entries |= {"do_center_crop": False, "crop_size": fields["size"]}
    write_json(folder / "preprocessor_config.json", entries)
    expansion = {
        "processor_class": family.transformers_processor,
        "image_token": DEFAULT_IMAGE_TOKEN,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        **family.processor().counting(ImageRules.from_config(config)),
    }
    if hasattr(config, "video_token_id"):  # transformers' processor of such a family makes videos too
        kept = {name: value for name, value in entries.items() if name in _PIXEL_SETTINGS}
        kind = str(family.transformers_processor).replace("Processor", "VideoProcessor")
        write_json(folder / VIDEO_PROCESSOR, kept | {"video_processor_type": kind})
    write_json(folder / "processor_config.json", expansion)
