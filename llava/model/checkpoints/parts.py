"""What a checkpoint is made of, a strict check of its tensors, and the model that they make.

No model class is known here: whoever asks hands it in.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel
from transformers.integrations import is_deepspeed_zero3_enabled

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
    to_module_names,
    tower_root,
)
from llava.model.checkpoints.stored_tensor import StoredTensor
from llava.model.configuration import as_compression
from llava.model.image_rules import ImageRules
from llava.model.llava_config import LlavaConfig, LlavaNextConfig
from llava.model.multimodal_encoder import selected_depth
from llava.model.multimodal_projector import read_projector
from llava.model.zero3 import without_zero3

logger = logging.getLogger(__name__)

_PROJECTOR = "model.multi_modal_projector."
_NEWLINE = "model.image_newline"
_MAX_NAMED = 8
_WEIGHT_DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16}


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


# ----- What a folder holds -----------------------------------------------------


def parts_of_checkpoint(
    folder: Path,
    model_base: str | Path | None = None,
    dtype: torch.dtype | str | None = None,
) -> ModelParts:
    """Finds out what a folder holds, and collects it; large tensors are not read.

    Args:
        folder: The checkpoint.
        model_base: For a projector, adapters or a checkpoint of a run; by default what they name themselves.
        dtype: That the model will have, so that merged adapters are rounded once; by default the base's.

    Raises:
        CheckpointError: It holds nothing that can be loaded; the message says what is missing.
    """
    if is_adapter(folder):
        return _tuned_parts(folder, model_base or adapter_base(folder), dtype)
    raw = read_json(folder / "config.json")
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
    return _tuned_parts(folder, model_base or raw.get("base_model_name_or_path"), dtype)


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
    root = _module_root(config)
    state = to_module_names(_weights(_required_weights(folder)), LANGUAGE_MODEL_NAMES, root)
    state.update(_tower_state(tower, config, root))
    random = [_NEWLINE] if family_of(config).has_newline else []
    if projector is None:
        random.append(_PROJECTOR)
    else:
        state.update(_in_memory(read_projector(projector)))
    return ModelParts(folder, config, state, folder, tower, True, tuple(random), has_tower=False)


def _whole_parts(folder: Path, raw: Mapping[str, Any], files: list[Path]) -> ModelParts:
    """A whole model of either format."""
    config, processor_folder = read_config(folder)
    root, is_llava = _module_root(config), is_llava_format(raw)
    state = (
        to_module_names(_weights(files), LLAVA_NAMES, root)
        if is_llava
        else from_transformers_names(_weights(files), root)
    )
    has_tower = not is_llava or any(name.startswith("model.vision_tower.") for name in state)
    if not has_tower:
        state.update(_tower_state(tower_folder(raw, folder, weights=True), config, root))
    unused = {}
    if is_llava and not family_of(config).has_newline and _NEWLINE in state:
        unused[_NEWLINE] = state.pop(_NEWLINE)  # LLaVA saves it with every model that has ever been trained as NeXT
    return ModelParts(folder, config, state, folder, processor_folder, is_llava, has_tower=has_tower, unused=unused)


def _tuned_parts(folder: Path, named: str | Path | None, dtype: torch.dtype | str | None) -> ModelParts:
    """What was trained, on the base that it was trained on."""
    if named is None:
        raise CheckpointError(f"{folder}: holds only what was trained; give the model it was tuned on as model_base")
    base = resolve_checkpoint(named)
    raw = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    is_whole = is_adapter(base) or _is_llava(read_json(base / "config.json"))
    parts = (
        parts_of_checkpoint(base, dtype=dtype) if is_whole else parts_from_base(base, _llava_entries(raw), None, folder)
    )
    parts.source = folder
    _replace_trained(parts, folder, base, dtype)
    for entry in ("compression", "image_aspect_ratio") if is_adapter(folder) else ("compression",):
        if entry in raw or not is_whole:
            setattr(parts.config, entry, raw.get(entry))
    for entry in ("conv_mode", "conv_mode_plugin"):  # the template of the training, perhaps another than the base's
        if entry in raw:
            setattr(parts.config, entry, raw[entry])
    if (folder / "tokenizer_config.json").is_file():
        parts.tokenizer_folder = folder
    return parts


def _replace_trained(parts: ModelParts, folder: Path, base: Path, dtype: torch.dtype | str | None) -> None:
    """Puts what a folder holds in the place of the base's tensors, and adds adapters to them."""
    root = _module_root(parts.config)
    found: dict[str, StoredTensor] = {}
    if projector_file(folder) is not None:
        found = _in_memory(read_projector(folder))
    elif is_adapter(folder):
        found = _in_memory(read_trained_beside(folder, root) or {})
    elif (folder / TRAINED_FILE).is_file():
        found = _weights([folder / TRAINED_FILE])
    if is_adapter(folder):
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


def _tower_state(folder: Path, config: LlavaConfig | LlavaNextConfig, root: str) -> dict[str, StoredTensor]:
    """The tower's tensors, from its own checkpoint or from that of a whole model of text and images."""
    spelled = tower_kind(config.vision_config).spelled_as_module
    files = _weights(_required_weights(folder))
    return to_module_names({spelled(name): files[name] for name in files if belongs_to_tower(name)}, TOWER_NAMES, root)


def _expected_shapes(config: LlavaConfig | LlavaNextConfig, model_class: type[Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model's tensors, read off one layer of each part: all layers of a part are alike."""
    shallow = copy.deepcopy(config)
    if isinstance(config.vision_feature_layer, int):
        selected_depth(config.vision_feature_layer, config.vision_config.num_hidden_layers)
        shallow.vision_feature_layer = -1
    shallow.vision_config.num_hidden_layers = shallow.text_config.num_hidden_layers = 1
    with without_zero3(), torch.device("meta"):
        model = model_class(shallow)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in model.state_dict().items():
        is_tower = name.startswith("model.vision_tower.")
        part = config.vision_config if is_tower else config.text_config
        layers = tower_kind(config.vision_config).layers if is_tower else "layers"
        before, layer, after = name.partition(f".{layers}.0.")
        names = [f"{before}.{layers}.{index}.{after}" for index in range(part.num_hidden_layers)] if layer else [name]
        shapes |= dict.fromkeys(names, tuple(value.shape))
    return shapes


def _module_root(config: LlavaConfig | LlavaNextConfig) -> str:
    """Where the tower's tensors are in the model, read off a tower of one layer, which is soon made."""
    shallow = copy.deepcopy(config.vision_config)
    shallow.num_hidden_layers = 1
    with without_zero3(), torch.device("meta"):
        tower = AutoModel.from_config(shallow)
    return tower_root(f"model.vision_tower.{name}" for name in tower.state_dict())


# ----- Strict checks -----------------------------------------------------------


def check_compression(parts: ModelParts) -> None:
    """Checks the compression that a config asks for.

    Raises:
        CheckpointError: It is malformed, of an unknown method, or does not fit the tower; or what the config says of
            images is malformed.
    """
    value = getattr(parts.config, "compression", None)
    try:
        rules = ImageRules.from_config(parts.config)
    except ValueError as error:
        raise CheckpointError(f"{parts.source}: config.json: {error}") from error
    try:
        rules.check(as_compression(value))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{parts.source}: config.json: compression {value!r}: {error}. Mend the entry, or load with compression= "
            "another one, None for all visual tokens"
        ) from error


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
    expected = _expected_shapes(parts.config, model_class)
    tied = {"lm_head.weight"} if parts.config.get_text_config().tie_word_embeddings else set()
    missing = [
        name
        for name in expected
        if name not in parts.state and name not in tied and not name.startswith(parts.may_start_at_random or ("\0",))
    ]
    unexpected = [name for name in parts.state if name not in expected]
    misshapen = [
        f"{name} is {value.shape}, the config says {expected[name]}"
        for name, value in parts.state.items()
        if name in expected and value.shape != expected[name]
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


# ----- After the model is made -------------------------------------------------


def set_generation_config(model: Any, parts: ModelParts) -> None:
    """Takes over published generation settings; those that contradict themselves must not stop a later save."""
    from transformers import GenerationConfig

    file = parts.tokenizer_folder / "generation_config.json"
    if not file.is_file():
        return
    config = GenerationConfig.from_dict(read_json(file))
    if not config.do_sample:
        config.temperature = config.top_p = config.top_k = None
    model.generation_config = config
