"""What a checkpoint is made of.

No model class is known here: whoever asks hands it in.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.integrations import is_deepspeed_zero3_enabled

from llava.entry_types import GENERATION_ENTRIES, shown
from llava.kinds.families import family_of
from llava.kinds.languages import LANGUAGES, language_named
from llava.kinds.towers import tower_kind
from llava.model.checkpoints.config_adapter import (
    adapt_config,
    is_llava_format,
    is_transformers_format,
    not_a_llava,
    read_config,
    tower_folder,
    vision_config_from,
)
from llava.model.checkpoints.files import (
    TRAINED_FILE,
    CheckpointError,
    open_tensors,
    projector_file,
    read_json,
    resolve_checkpoint,
    weight_files,
)
from llava.model.checkpoints.lora import (
    adapter_base,
    is_adapter,
    merge_adapter,
    read_adapter,
    read_trained_beside,
)
from llava.model.checkpoints.names import (
    LANGUAGE_MODEL_NAMES,
    LLAVA_NAMES,
    TOWER_NAMES,
    belongs_to_tower,
    from_transformers_names,
    is_head,
    layer_of,
    to_module_names,
)
from llava.model.checkpoints.quantised import refuse_merging
from llava.model.checkpoints.refusals import refuse_other_families
from llava.model.checkpoints.skeleton import module_root
from llava.model.checkpoints.stored_tensor import StoredTensor
from llava.model.llava_config import LlavaConfig, LlavaNextConfig
from llava.model.multimodal_projector import read_projector
from llava.plain_loading import reason

logger = logging.getLogger(__name__)

_PROJECTOR = "model.multi_modal_projector."
_NEWLINE = "model.image_newline"
_NO_SETTING = ("_from_model_config", "transformers_version")
_NEUTRAL: tuple[Any, ...] = (None, False, 0, 1, "", [], {})  # of settings that are off, in files that name all of them
_MAX_NAMED = 8


@dataclass
class ModelParts:
    """What a model is made of, before it is made.

    Attributes:
        source: Folder that was asked for, for messages.
        config: transformers' config.
        state: Tensors by the module's names, not yet read; adapters are merged as a weight is read.
        tokenizer_folder: Where the tokenizer lies.
        processor_folder: Where the image processor's config lies.
        is_llava_format: Whether LLaVA's rules hold (tokens that its config asks for).
        may_start_at_random: Prefixes of tensors that need not be there (a new projector, a new newline).
        has_tower: Whether the checkpoint's own files hold the vision tower.
        unused: Tensors of the files that LLaVA writes and the model has no place for.
        tells_compression: Whether a config says, if only by silence, which compression the weights belong to.
    """

    source: Path
    config: LlavaConfig | LlavaNextConfig
    state: dict[str, StoredTensor]
    tokenizer_folder: Path
    processor_folder: Path
    is_llava_format: bool = False
    may_start_at_random: tuple[str, ...] = ()
    has_tower: bool = True
    unused: dict[str, StoredTensor] = field(default_factory=dict)
    tells_compression: bool = True


# ----- What a folder holds -----------------------------------------------------


def parts_of_checkpoint(
    folder: Path,
    model_base: str | Path | None = None,
    dtype: torch.dtype | str | None = None,
    above: tuple[Path, ...] = (),
) -> ModelParts:
    """Finds out what a folder holds, and collects it; large tensors are not read.

    Args:
        folder: The checkpoint.
        model_base: For a projector, adapters or a checkpoint of a run; by default what they name themselves.
        dtype: That the model will have, so that merged adapters are rounded once; by default the base's.
        above: The folders that go on this one.

    Raises:
        CheckpointError: It holds nothing that can be loaded; the message says what is missing.
    """
    if is_adapter(folder):
        return _tuned_parts(folder, model_base or adapter_base(folder), dtype, above)
    raw = read_json(folder / "config.json")
    refuse_other_families(raw, folder)
    if not _is_llava(raw):
        raise not_a_llava(raw, folder)
    files = weight_files(folder)
    if files:
        if model_base is not None:
            logger.warning("%s holds a whole model; model_base %s is not needed and not read", folder, model_base)
        return _whole_parts(folder, raw, files)
    if projector_file(folder) is None and not (folder / TRAINED_FILE).is_file():
        raise CheckpointError(
            f"{folder}: there are no weights: neither model*.safetensors, pytorch_model*.bin, nor mm_projector.*"
        )
    return _tuned_parts(folder, model_base or raw.get("base_model_name_or_path"), dtype, above)


def parts_from_base(
    folder: Path, llava_entries: Mapping[str, Any], projector: str | Path | None, vision_source: Path | None = None
) -> ModelParts:
    """A plain language model, a vision tower, and a projector or none.

    Args:
        folder: The language model.
        llava_entries: LLaVA's config entries, `mm_vision_tower` among them.
        projector: File or folder; None starts at random.
        vision_source: Folder from which a relative `mm_vision_tower` is meant; the working directory by default.

    Raises:
        CheckpointError: A part cannot be loaded.
    """
    base = read_json(folder / "config.json")
    language = language_named(base.get("model_type"))
    if language is None:
        known = sorted({kind.model_type for kind in LANGUAGES if kind.is_supported})
        raise CheckpointError(
            f"{folder}: config.json: model_type {base.get('model_type')!r} is not a supported language model; there "
            f"are {', '.join(known)}"
        )
    raw = {**base, **llava_entries, "model_type": language.llava_model_types[0]}
    tower = tower_folder(raw, vision_source or Path(), weights=True)
    config = adapt_config(raw, vision_config_from(tower), folder)
    root = module_root(config, folder)
    state = to_module_names(_weights(_required_weights(folder)), LANGUAGE_MODEL_NAMES, root)
    state.update(tower_state(tower, config, root))
    random = [_NEWLINE] if family_of(config).has_newline else []
    if projector is None:
        random.append(_PROJECTOR)
    else:
        state.update(_in_memory(read_projector(projector)))
    return ModelParts(folder, config, state, folder, tower, True, tuple(random), has_tower=False)


def _whole_parts(folder: Path, raw: Mapping[str, Any], files: list[Path]) -> ModelParts:
    """A whole model of either format."""
    config, processor_folder = read_config(folder)
    root, is_llava = module_root(config, folder), is_llava_format(raw)
    state = (
        to_module_names(_weights(files), LLAVA_NAMES, root)
        if is_llava
        else from_transformers_names(_weights(files), root)
    )
    has_tower = not is_llava or any(name.startswith("model.vision_tower.") for name in state)
    if not has_tower and family_of(config).read_llava is None:
        state.update(tower_state(tower_folder(raw, folder, weights=True), config, root))
    unused = {}
    if is_llava and not family_of(config).has_newline and _NEWLINE in state:
        unused[_NEWLINE] = state.pop(_NEWLINE)  # LLaVA saves it with every model that has ever been trained as NeXT
    return ModelParts(folder, config, state, folder, processor_folder, is_llava, has_tower=has_tower, unused=unused)


def _tuned_parts(
    folder: Path, named: str | Path | None, dtype: torch.dtype | str | None, above: tuple[Path, ...]
) -> ModelParts:
    """What was trained, on the base that it was trained on."""
    if named is None:
        raise CheckpointError(f"{folder}: holds only what was trained; give the model it was tuned on as model_base")
    try:
        base = resolve_checkpoint(named)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: its base: {error}") from error
    above = (*above, folder.resolve())
    if base.resolve() in above:
        raise CheckpointError(f"{folder}: its base is {named}, which is the folder itself or goes on it")
    raw = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    is_whole = is_adapter(base) or _is_llava(read_json(base / "config.json"))
    parts = (
        parts_of_checkpoint(base, None, dtype, above)
        if is_whole
        else parts_from_base(base, _llava_entries(raw), None, folder)
    )
    parts.source, parts.tells_compression = folder, bool(raw)
    _replace_trained(parts, folder, base, dtype)
    for entry in ("compression", "image_aspect_ratio") if is_adapter(folder) else ("compression",):
        if entry in raw or not is_whole:
            setattr(parts.config, entry, raw.get(entry))
    if hasattr(parts.config, "compression_range"):  # of the base's weights
        del parts.config.compression_range
    # How the trained part was trained, perhaps otherwise than the base.
    for entry in ("conv_mode", "conv_mode_plugin", "compression_range"):
        if entry in raw:
            setattr(parts.config, entry, raw[entry])
    if (folder / "tokenizer_config.json").is_file():
        parts.tokenizer_folder = folder
    return parts


def _replace_trained(parts: ModelParts, folder: Path, base: Path, dtype: torch.dtype | str | None) -> None:
    """Puts what a folder holds in the place of the base's tensors, and adds adapters to them."""
    root = module_root(parts.config, folder)
    found: dict[str, StoredTensor] = {}
    if projector_file(folder) is not None:
        found = _in_memory(read_projector(folder))
    elif is_adapter(folder):
        found = _in_memory(read_trained_beside(folder, root) or {})
    elif (folder / TRAINED_FILE).is_file():
        found = _weights([folder / TRAINED_FILE])
    if is_adapter(folder):
        refuse_merging(parts.config, folder, base)
        adapter = read_adapter(folder, root)
        merge_adapter(parts.state, adapter, f"{folder} on {base}", dtype)
        found = {**_in_memory(adapter.others), **found}
        if not any(name.startswith(_PROJECTOR) for name in found):
            _check_projector_of_base(parts, folder, base)
    parts.state.update(found)
    allowed = () if is_adapter(folder) else (_NEWLINE,)  # LLaVA's projectors come without one
    parts.may_start_at_random = tuple(name for name in parts.may_start_at_random if name in allowed)


def _check_projector_of_base(parts: ModelParts, folder: Path, base: Path) -> None:
    if parts.may_start_at_random:
        raise CheckpointError(
            f"{folder}: there is no projector beside the adapter (mm_projector.*, or LLaVA's non_lora_trainables.bin, "
            f"which its runs write at their end only), and {base} is a language model without one"
        )
    logger.warning("%s: there is no projector beside the adapter; that of %s is used", folder, base)


def _is_llava(raw: Mapping[str, Any]) -> bool:
    return is_llava_format(raw) or is_transformers_format(raw)


def _llava_entries(raw: Mapping[str, Any]) -> dict[str, Any]:
    """LLaVA's entries of a projector's config, of either format: how its tower is read and its images are cut."""
    wanted = ("image_aspect_ratio", "image_grid_pinpoints")
    entries = {name: value for name, value in raw.items() if name.startswith(("mm_", "tokenizer_")) or name in wanted}
    if is_transformers_format(raw) and entries.get("image_grid_pinpoints"):
        entries["image_grid_pinpoints"] = [(width, height) for height, width in entries["image_grid_pinpoints"]]
    return entries


# ----- Tensors, not yet read ---------------------------------------------------


def _required_weights(folder: Path) -> list[Path]:
    files = weight_files(folder)
    if not files:
        raise CheckpointError(f"{folder}: there are no weights: neither model*.safetensors nor pytorch_model*.bin")
    return files


def _weights(files: list[Path]) -> dict[str, StoredTensor]:
    """The tensors of large files; mapped under ZeRO-3, whose loader takes all of them at once on each process."""
    return open_tensors(files, mapped=is_deepspeed_zero3_enabled())


def _in_memory(tensors: Mapping[str, Tensor]) -> dict[str, StoredTensor]:
    return {name: StoredTensor.of(tensor) for name, tensor in tensors.items()}


def tower_state(folder: Path, config: Any, root: str) -> dict[str, StoredTensor]:
    """The tower's tensors, from its own checkpoint or from that of a whole model of text and images."""
    kind, files = tower_kind(config.vision_config), _weights(_required_weights(folder))
    own = {kind.spelled_as_module(name): files[name] for name in files if belongs_to_tower(name)}
    vision = config.vision_config
    if getattr(vision, "vision_use_head", True) is False:  # a family may use less of a tower than its files hold
        last = vision.num_hidden_layers
        own = {name: own[name] for name in own if layer_of(name, kind.layers) < last and not is_head(name)}
    return to_module_names(own, TOWER_NAMES, root)


# ----- After the model is made -------------------------------------------------


def finish_model(model: Any, parts: ModelParts, name: str | Path) -> None:
    """Tells a model where it comes from, as transformers does: peft's adapters and model cards name their base by it.

    Args:
        model: Just made.
        parts: What it was made of.
        name: What was asked for: a folder or a repository.
    """
    warning = family_of(parts.config).warning
    if warning:
        logger.warning("%s: %s", parts.source, warning)
    model.name_or_path = model.config.name_or_path = str(name)
    model.tokenizer_folder, model.processor_folder = parts.tokenizer_folder, parts.processor_folder
    set_generation_config(model, parts)


def set_generation_config(model: Any, parts: ModelParts) -> None:
    """Takes over published generation settings; those that contradict themselves must not stop a later save.

    Entries that choose another way to decode, or what `generate` returns, are left out with a warning: answers are made
    by this package's rules, and some of those entries would fetch code.

    Raises:
        CheckpointError: An entry is not what it must be.
    """
    from transformers import GenerationConfig

    file = parts.tokenizer_folder / "generation_config.json"
    if not file.is_file():
        return
    entries = read_json(file)
    left_out = sorted(
        name
        for name, value in entries.items()
        if name not in GENERATION_ENTRIES and name not in _NO_SETTING and (value is True or value not in _NEUTRAL)
    )
    if left_out:
        named = ", ".join(map(shown, left_out[:_MAX_NAMED])) + (", ..." if len(left_out) > _MAX_NAMED else "")
        logger.warning("%s: these entries are not honoured here: %s", file, named)
    kept = {name: entries[name] for name in GENERATION_ENTRIES & set(entries)}
    if not kept.get("do_sample"):
        kept |= dict.fromkeys(("temperature", "top_p", "top_k"))
    try:
        config = GenerationConfig.from_dict(kept)
    except Exception as error:
        raise CheckpointError(f"{file}: {reason(error)}") from error
    model.generation_config = config
