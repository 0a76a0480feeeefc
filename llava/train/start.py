"""The model that a run starts from."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers.integrations import is_deepspeed_zero3_enabled

from llava.conversation import TEMPLATES, SeparatorStyle, conversation_template
from llava.kinds.families import family_of
from llava.kinds.languages import find_language
from llava.model.builder import build_from_parts, load_pretrained_model
from llava.model.checkpoints.config_adapter import is_llava_format, is_transformers_format
from llava.model.checkpoints.files import read_json, resolve_checkpoint
from llava.model.multimodal_projector import read_projector
from llava.model.quantization import bitsandbytes_config, import_bitsandbytes, unpack_projector
from llava.train.adapters import add_adapters
from llava.train.arguments import Arguments
from llava.train.stages import Stage, apply_stage

logger = logging.getLogger(__name__)


def start_model(arguments: Arguments, stage: Stage, attn_implementation: str | None = None) -> tuple[Any, Any, Any]:
    """Loads a LLaVA checkpoint, or joins a language model and a tower, and readies it for a stage.

    What is trained is kept in float32, so that small updates are not lost; the rest takes the dtype of the run
    (`--bf16`, `--fp16`), in which DeepSpeed will hold all of it. A quantised language model goes straight to the
    device of the run, and its norms are kept in float32 (Dettmers et al. 2023).

    Args:
        arguments: Of `parse_arguments`.
        stage: What will be trained.
        attn_implementation: For the language model, unless `--attn_implementation` says otherwise.

    Returns:
        Tokenizer, model, image processor.

    Raises:
        ValueError: The flags do not fit the checkpoint.
    """
    import_bitsandbytes()  # which the trainer would do, less quietly
    model_arguments = arguments.model
    attention = model_arguments.attn_implementation or attn_implementation
    if is_llava_checkpoint(model_arguments.model_name_or_path):
        tokenizer, model, image_processor = _from_checkpoint(arguments, attention)
    else:
        tokenizer, model, image_processor = _from_parts(arguments, attention)
    if arguments.data.image_aspect_ratio is not None:
        model.config.image_aspect_ratio = arguments.data.image_aspect_ratio
    if model_arguments.compression is not None:
        model.set_compression(model_arguments.compression)
    if model.model.reads_questions:
        raise ValueError(
            f"compression {model.compression} chooses by the question, and in training there is none; choose another"
        )
    if model.compression is not None and model.compression.adaptive is not None:
        raise ValueError(
            f"compression {model.compression}: adaptive budgets are for answers; train with a fixed one, such as "
            f"--compression {model.compression.with_total(model.compression.num_tokens)}"
        )
    model.get_model().check_unpruned("no gradient flows through what is dropped; train with --compression none")
    if arguments.training.packing:
        model.get_model().check_counted("samples that are laid end to end have one mask; leave --packing out")
    model.config.tokenizer_model_max_length = arguments.training.model_max_length  # data and model cut alike
    if model_arguments.version is not None:
        record_template(model.config, model_arguments.version)
    model.config.use_cache = False  # a cache would be filled and never read; it is no part of what is saved
    tokenizer.padding_side = "right"
    if stage.has_adapters:
        _add_adapters(model, arguments)
    if stage.saves_projector_only:
        unpack_projector(model)
    apply_stage(model, stage)
    if not is_deepspeed_zero3_enabled():  # which splits the parameters, in the dtype that they are loaded in
        _set_dtypes(model, run_dtype(arguments), keep_norms=stage.quantised)
    return tokenizer, model, image_processor


def record_template(config: Any, version: str) -> None:
    """Notes the conversation template of a training in the model's config, so that the model is asked in it later.

    Not recorded are the language model's usual template, and that of LLaVA's first stage, which holds no conversations.

    Args:
        config: Of the model.
        version: Name of the template.
    """
    chosen = conversation_template(version)
    if chosen.sep_style == SeparatorStyle.PLAIN:
        return
    language, before = find_language(config.text_config), getattr(config, "conv_mode", None)
    usual = before or (None if language is None else language.template)
    if usual is not None and chosen != conversation_template(usual):
        logger.warning("--version %s: the model's own template is %s; it is tuned to another one", version, usual)
    if language is None or chosen != conversation_template(language.template):
        config.conv_mode = version
        plugin = TEMPLATES.plugin_name(version)
        if plugin is not None:
            config.conv_mode_plugin = plugin
    elif before is not None:
        config.conv_mode = None  # of an earlier training in another template


def _from_checkpoint(arguments: Arguments, attention: str | None) -> tuple[Any, Any, Any]:
    given = arguments.model
    if given.vision_tower is not None:
        logger.warning("--vision_tower %s is ignored: the checkpoint names its own tower", given.vision_tower)
    tokenizer, model, image_processor, _ = load_pretrained_model(
        given.model_name_or_path, attn_implementation=attention, **_placement(arguments)
    )
    refusal = family_of(model.config).no_training
    if refusal:
        raise ValueError(f"--model_name_or_path {given.model_name_or_path}: {refusal}")
    merge_type = getattr(model.config, "mm_patch_merge_type", None) or "flat"
    if given.mm_patch_merge_type not in (None, merge_type):
        raise ValueError(
            f"--mm_patch_merge_type {given.mm_patch_merge_type}: the checkpoint was made with {merge_type}"
        )
    if given.pretrain_mm_mlp_adapter is not None:
        projector = read_projector(given.pretrain_mm_mlp_adapter)
        unexpected = model.load_state_dict(projector, strict=False).unexpected_keys
        if unexpected:
            raise ValueError(f"--pretrain_mm_mlp_adapter {given.pretrain_mm_mlp_adapter}: does not fit, {unexpected}")
    return tokenizer, model, image_processor


def _from_parts(arguments: Arguments, attention: str | None) -> tuple[Any, Any, Any]:
    given = arguments.model
    if given.vision_tower is None:
        raise ValueError(
            f"--model_name_or_path {given.model_name_or_path} is a language model without a tower; give --vision_tower"
        )
    tokenizer, model, image_processor = build_from_parts(
        given.model_name_or_path,
        given.vision_tower,
        mm_vision_select_layer=given.mm_vision_select_layer,
        mm_projector_type=given.mm_projector_type,
        pretrain_mm_mlp_adapter=given.pretrain_mm_mlp_adapter,
        mm_vision_select_feature=given.mm_vision_select_feature,
        mm_patch_merge_type=given.mm_patch_merge_type or "flat",
        image_aspect_ratio=arguments.data.image_aspect_ratio or "square",
        image_grid_pinpoints=arguments.data.image_grid_pinpoints,
        attn_implementation=attention,
        **_placement(arguments),
        tokenizer_model_max_length=arguments.training.model_max_length,
    )
    return tokenizer, model, image_processor


def is_llava_checkpoint(name: str) -> bool:
    """Whether a config describes a whole LLaVA model, in either format."""
    config = read_json(resolve_checkpoint(name) / "config.json")
    return is_llava_format(config) or is_transformers_format(config)


def run_dtype(arguments: Arguments) -> torch.dtype:
    """What the flags ask to compute in."""
    if arguments.training.bf16:
        return torch.bfloat16
    return torch.float16 if arguments.training.fp16 else torch.float32


def _add_adapters(model: Any, arguments: Arguments) -> None:
    given = arguments.training
    if given.lora_weight_path:
        logger.warning("--lora_weight_path %s has no effect, as in LLaVA", given.lora_weight_path)
    add_adapters(model, r=given.lora_r, alpha=given.lora_alpha, dropout=given.lora_dropout, bias=given.lora_bias)


def _placement(arguments: Arguments) -> dict[str, Any]:
    """Where and how the weights are loaded, for both loading functions."""
    given = arguments.training
    if not arguments.stage.quantised:
        dtype = run_dtype(arguments) if is_deepspeed_zero3_enabled() else "auto"
        return {"torch_dtype": dtype, "device": "cpu"}
    if is_deepspeed_zero3_enabled():
        raise ValueError("--stage qlora does not go with ZeRO-3, which cannot split quantised weights; use ZeRO-2")

    quantization = bitsandbytes_config(
        given.bits, run_dtype(arguments), quant_type=given.quant_type, double_quant=given.double_quant
    )
    return {"torch_dtype": "auto", "device": given.device, "quantization_config": quantization}


def _set_dtypes(model: Any, dtype: torch.dtype, *, keep_norms: bool = False) -> None:
    # Parameter by parameter: `model.to(dtype)` would round the rotary frequencies too.
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            continue  # quantised
        is_norm = name.startswith("model.language_model.") and "norm" in name
        exact = parameter.requires_grad or (keep_norms and is_norm)
        parameter.data = parameter.data.to(torch.float32 if exact else dtype)
