"""`load_pretrained_model`: any LLaVA checkpoint, in either format: whole, or a projector or LoRA adapters on a base."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.kinds.families import family_of
from llava.model.attention import default_attention
from llava.model.checkpoints.files import resolve_checkpoint
from llava.model.checkpoints.parts import (
    ModelParts,
    finish_model,
    parts_from_base,
    parts_of_checkpoint,
)
from llava.model.checkpoints.quantised import refuse_quantising_again
from llava.model.checkpoints.strictness import check_tensors, choose_compression
from llava.model.configuration import STORED, CompressionLike, Stored
from llava.model.llava_arch import Llava
from llava.model.processor_files import image_processor_of
from llava.model.quantization import bitsandbytes_config, import_bitsandbytes
from llava.model.vocabulary import add_image_tokens, fit_vocabulary
from llava.prompts.tokenization import load_tokenizer

logger = logging.getLogger(__name__)


# ----- Loading -----------------------------------------------------------------


def load_pretrained_model(
    model_path: str | Path,
    model_base: str | Path | None = None,
    model_name: str | None = None,
    load_8bit: bool = False,
    load_4bit: bool = False,
    device_map: str | Mapping[str, Any] | None = "auto",
    device: str | torch.device | None = None,
    use_flash_attn: bool = False,
    *,
    use_flash_attention_2: bool = False,
    compression: CompressionLike | Stored = STORED,
    torch_dtype: torch.dtype | str | None = None,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    multimodal: bool | None = None,
    customized_config: Any = None,
    overwrite_config: Mapping[str, Any] | None = None,
    quantization_config: Any = None,
    compile: bool = False,
    clip_text: str | Path | None = None,
) -> tuple[PreTrainedTokenizerBase, Llava, Any, int]:
    """Loads a LLaVA for inference, with as many visual tokens as `compression` leaves.

    What the folder holds is read from its config and files, never from its name: a LLaVA-format checkpoint
    (`liuhaotian/llava-v1.5-*`, `llava-v1.6-*`), a transformers-format one (`llava-hf/*`, or saved by this package), or
    what goes on `model_base`, a whole LLaVA or the language model it was made of: a projector alone, LoRA adapters
    (this package's, LLaVA's or peft's; merged into the weights), or a checkpoint of a run under way.

    Args:
        model_path: A folder, or a repository on the Hub.
        model_base: What a projector or adapters are put on; by default what their config names.
        model_name: Taken for LLaVA's sake, and ignored.
        load_8bit: Quantise the language model with bitsandbytes.
        load_4bit: The same with 4 bits (nf4).
        device_map: As in transformers; used only on an accelerator.
        device: Where to put the model; by default the accelerator if there is one, else the CPU.
        use_flash_attn: LLaVA's way to say `attn_implementation="flash_attention_2"`.
        use_flash_attention_2: Another of LLaVA's ways to say the same.
        compression: `"visionzip:54+10"`, a `CompressionConfig`, its dict, or None for all visual tokens. Not given:
            what the checkpoint's config says.
        torch_dtype: Of the weights, a dtype or its name, or `"auto"` for the checkpoint's own; by default float16 on an
            accelerator, as in LLaVA, and float32 on the CPU.
        dtype: transformers' name for `torch_dtype`.
        attn_implementation: `sdpa`, `eager`, `flash_attention_2` or `_3`; by default flash attention on a GPU in half
            precision where it is installed, else `sdpa`.
        multimodal: LLaVA's; a model of this package always is.
        customized_config: LLaVA's; not supported, warned about.
        overwrite_config: Entries set on the config before the model is made.
        quantization_config: transformers', in place of `load_8bit` or `load_4bit`.
        compile: Run tower, compressor and projector as one compiled graph; the first batches wait for it.
        clip_text: A CLIP checkpoint with the same vision tower, whose text tower reads questions for methods that
            choose by them, such as CDPruner.

    Returns:
        (tokenizer, model, image_processor, context_len), the model in eval mode.

    Raises:
        CheckpointError: The checkpoint cannot be loaded; the message names folder and tensor, entry or file.
        ValueError: The compression does not fit the tower, or `compile` finds parts of the model offloaded.
    """
    if multimodal is False:
        warnings.warn("multimodal=False is ignored: this package loads multimodal models only", stacklevel=2)
    if customized_config is not None:
        warnings.warn("customized_config is ignored; use overwrite_config={entry: value}", stacklevel=2)
    if (use_flash_attn or use_flash_attention_2) and attn_implementation is None:
        attn_implementation = "flash_attention_2"

    target = torch.device(device) if device is not None else _default_device()
    dtype = _dtype_for(target, _one_of(torch_dtype, dtype))
    parts = parts_of_checkpoint(resolve_checkpoint(model_path), model_base, dtype)
    _overwrite(parts.config, overwrite_config or {})
    choose_compression(parts, compression)
    tokenizer, image_processor = _small_parts(parts)  # before the weights, which take minutes
    by_map = target.type != "cpu" and (device is None or str(device) == "cuda")  # LLaVA's default names no card
    model = instantiate(
        parts,
        dtype=dtype,
        device_map=device_map if by_map else {"": target},
        attn_implementation=attn_implementation
        or default_attention(target, parts.config.dtype if dtype == "auto" else dtype),
        quantization=quantization_config or _quantization(load_8bit, load_4bit, dtype),
        name=model_path,
    )
    fit_vocabulary(model, tokenizer)
    model.image_processor = image_processor
    if clip_text is not None:
        model.use_clip_text(resolve_checkpoint(clip_text))
    if compile:
        model.compile_vision()
    return tokenizer, model.eval(), image_processor, _context_length(model.config)


# ----- Building of parts -------------------------------------------------------


def build_from_parts(
    llm_path: str | Path,
    vision_tower_path: str | Path,
    *,
    mm_vision_select_layer: int = -2,
    mm_vision_select_feature: str = "patch",
    mm_projector_type: str = "mlp2x_gelu",
    pretrain_mm_mlp_adapter: str | Path | None = None,
    mm_patch_merge_type: str = "flat",
    image_aspect_ratio: str = "pad",
    image_grid_pinpoints: Any = None,
    compression: CompressionLike = None,
    torch_dtype: torch.dtype | str | None = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    attn_implementation: str | None = None,
    quantization_config: Any = None,
    **extra_entries: Any,
) -> tuple[PreTrainedTokenizerBase, Llava, Any]:
    """Makes a LLaVA of a language model and a vision tower, as LLaVA's first stage does.

    Args:
        llm_path: A checkpoint of a registered language model (`LanguageKind`).
        vision_tower_path: A checkpoint of a registered vision tower (`TowerKind`).
        mm_vision_select_layer: Index into the tower's hidden states.
        mm_vision_select_feature: `patch`, or `cls_patch` to keep the CLS token.
        mm_projector_type: `linear`, `mlpNx_gelu` or `identity`.
        pretrain_mm_mlp_adapter: File or folder of a projector; without it the projector starts at random.
        mm_patch_merge_type: `flat`, `spatial` or `spatial_unpad`.
        image_aspect_ratio: `square`, `pad` or `anyres`.
        image_grid_pinpoints: (w, h) of each grid, for `anyres`.
        compression: See `load_pretrained_model`.
        torch_dtype: Of the weights; float32 by default.
        dtype: transformers' name for `torch_dtype`.
        device: Where to put the model; the CPU by default.
        attn_implementation: `sdpa` or another of transformers'.
        quantization_config: transformers'.
        **extra_entries: Further LLaVA entries of the config (`mm_*`, `tokenizer_*`).

    Returns:
        (tokenizer, model, image_processor), the model in training mode.

    Raises:
        CheckpointError: A part cannot be loaded.
    """
    entries = {
        "mm_vision_tower": str(vision_tower_path),
        "mm_vision_select_layer": mm_vision_select_layer,
        "mm_vision_select_feature": mm_vision_select_feature,
        "mm_projector_type": mm_projector_type,
        "mm_patch_merge_type": mm_patch_merge_type,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": image_aspect_ratio,
        "image_grid_pinpoints": image_grid_pinpoints,
        **extra_entries,
    }
    parts = parts_from_base(resolve_checkpoint(llm_path), entries, pretrain_mm_mlp_adapter)
    choose_compression(parts, compression)
    tokenizer, image_processor = _small_parts(parts)
    own_image_token = tokenizer.get_vocab().get(DEFAULT_IMAGE_TOKEN)
    if own_image_token is not None and own_image_token < parts.config.vocab_size:
        parts.config.image_token_id = own_image_token  # then plain transformers can run what is saved
    model = instantiate(
        parts,
        dtype=_one_of(torch_dtype, dtype) or torch.float32,
        device_map=None if device is None else {"": torch.device(device)},
        attn_implementation=attn_implementation,
        quantization=quantization_config,
    )
    fit_vocabulary(model, tokenizer)
    model.image_processor = image_processor
    return tokenizer, model.train(), image_processor


def instantiate(
    parts: ModelParts,
    *,
    dtype: torch.dtype | str,
    device_map: Any = None,
    attn_implementation: str | None = None,
    quantization: Any = None,
    name: str | Path = "",
) -> Llava:
    """Makes the model, after the strict check.

    Args:
        parts: From `parts_of_checkpoint` or `parts_from_base`.
        dtype: Of the weights, or `"auto"`.
        device_map: As in transformers.
        attn_implementation: As in transformers.
        quantization: As transformers' `quantization_config`.
        name: What was asked for, empty for a model of parts, which is of no place.

    Raises:
        CheckpointError: See `check_tensors`.
    """
    model_class = family_of(parts.config).model()
    refuse_quantising_again(parts.config, quantization, parts.source)
    if quantization is not None:
        import_bitsandbytes()
    check_tensors(parts, model_class)
    if is_deepspeed_zero3_enabled():
        device_map = None  # DeepSpeed places the parts itself
    options: dict[str, Any] = {"dtype": dtype, "device_map": device_map, "quantization_config": quantization}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    model: Llava = model_class.from_state(parts.config, parts.state, **options)
    finish_model(model, parts, name)
    return model


def _small_parts(parts: ModelParts) -> tuple[PreTrainedTokenizerBase, Any]:
    """Tokenizer, with the tokens that a LLaVA config asks for, and image processor."""
    tokenizer = load_tokenizer(parts.tokenizer_folder)
    if parts.is_llava_format:
        add_image_tokens(tokenizer, parts.config)
    return tokenizer, image_processor_of(parts.config, parts.processor_folder)


# ----- Device, dtype, settings -------------------------------------------------


def _default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def _one_of(torch_dtype: torch.dtype | str | None, dtype: torch.dtype | str | None) -> torch.dtype | str | None:
    """The dtype that was asked for, under either name."""
    if torch_dtype is not None and dtype is not None and torch_dtype != dtype:
        raise ValueError(f"torch_dtype={torch_dtype} and dtype={dtype} are two names of one thing; give one of them")
    return dtype if torch_dtype is None else torch_dtype


def _dtype_for(device: torch.device, asked: torch.dtype | str | None) -> torch.dtype | str:
    if isinstance(asked, str) and asked != "auto":
        named = getattr(torch, asked, None)
        if not isinstance(named, torch.dtype):
            raise ValueError(f"dtype {asked!r} is no dtype; say 'float16', 'bfloat16', 'float32' or 'auto'")
        return named
    if asked is not None:
        return asked
    return torch.float32 if device.type == "cpu" else torch.float16


def _overwrite(config: Any, entries: Mapping[str, Any]) -> None:
    """Sets entries of the config, those of the language model there.

    Raises:
        ValueError: There is no such entry, so it would have no effect.
    """
    for name, value in entries.items():
        if name in vars(config) or name.startswith(("mm_", "image_", "tokenizer_")) or name == "compression":
            setattr(config, name, value)
        elif name in vars(config.text_config):
            setattr(config.text_config, name, value)
        else:
            raise ValueError(f"overwrite_config: the config has no entry {name!r}")


def _quantization(load_8bit: bool, load_4bit: bool, dtype: torch.dtype | str) -> Any:
    """LLaVA's two flags in transformers' words."""
    if not (load_8bit or load_4bit):
        return None
    if load_8bit and load_4bit:
        raise ValueError("load_8bit and load_4bit exclude each other; choose one")
    return bitsandbytes_config(8 if load_8bit else 4, dtype if isinstance(dtype, torch.dtype) else torch.float16)


def _context_length(config: Any) -> int:
    """Tokens that prompt and answer may have, images included."""
    for entry in ("max_sequence_length", "tokenizer_model_max_length", "max_position_embeddings"):
        value = getattr(config, entry, None)
        if value:
            return int(value)
    return 2048


__all__ = ["ModelParts", "build_from_parts", "instantiate", "load_pretrained_model"]
