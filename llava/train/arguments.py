"""The flags of `train.py`: LLaVA's, transformers', and this project's own.

Names are LLaVA's. Defaults differ where LLaVA's are those of its first release and every published script overrides
them (`--version`, `--mm_vision_select_layer`, `--mm_projector_type`, `--mm_use_im_patch_token`, `--model_max_length`).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import transformers
from transformers.utils import is_torch_tf32_available

from llava.train.stages import Stage, stage_of

logger = logging.getLogger(__name__)


def _flag(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """What is trained."""

    model_name_or_path: str = _flag(None, "A LLaVA checkpoint (either format), or a language model to make one from.")
    stage: str | None = _flag(
        None, "align, projector or finetune; by default align with --tune_mm_mlp_adapter, else finetune."
    )
    compression: str | None = _flag(
        None, "METHOD:DOMINANT+CONTEXTUAL as in visionzip:54+10, or none; by default as the checkpoint says."
    )
    version: str = _flag("v1", "Prompt template: a name of llava.conversation, `plain` for alignment.")
    vision_tower: str | None = _flag(
        None, "The tower that a language model is joined with; a LLaVA checkpoint has its own."
    )
    pretrain_mm_mlp_adapter: str | None = _flag(
        None, "Projector to start from: a file of LLaVA's, or a folder of ours."
    )
    mm_projector_type: str = _flag("mlp2x_gelu", "Projector made for a plain language model.")
    mm_vision_select_layer: int = _flag(-2, "Layer of the tower that is read.")
    mm_vision_select_feature: str = _flag("patch", "patch, or cls_patch to keep the CLS token.")
    mm_patch_merge_type: str | None = _flag(
        None, "flat, spatial or spatial_unpad; by default the checkpoint's, and flat for a plain language model."
    )
    mm_use_im_start_end: bool = _flag(False, "Not supported; LLaVA-1.5 and later do without.")
    mm_use_im_patch_token: bool = _flag(False, "Not supported; LLaVA-1.5 and later do without.")
    tune_mm_mlp_adapter: bool = _flag(False, "LLaVA's name for --stage align.")
    freeze_backbone: bool = _flag(False, "Leave the language model as it is.")
    attn_implementation: str | None = _flag(None, "sdpa, flash_attention_2, eager; by default what is there.")

    def __post_init__(self) -> None:
        if not self.model_name_or_path:
            raise ValueError("--model_name_or_path must be given: a LLaVA checkpoint or a language model")
        for name in ("mm_use_im_start_end", "mm_use_im_patch_token"):
            if getattr(self, name):
                raise ValueError(f"--{name} True is not supported; LLaVA-1.5 and later train with False")


@dataclass
class DataArguments:
    """What it is trained on."""

    data_path: str = _flag(None, "LLaVA's JSON (or JSONL).")
    image_folder: str | None = _flag(None, "Where the paths of the images begin.")
    image_aspect_ratio: str | None = _flag(
        None, "square, pad or anyres; by default the checkpoint's, and square for a plain language model, as in LLaVA."
    )
    image_grid_pinpoints: str | None = _flag(None, "For anyres on a plain language model: [(w, h), ...].")
    data_fraction: float = _flag(1.0, "Train on this part of the data, drawn by --data_seed (or --seed).")
    lazy_preprocess: bool = _flag(True, "Accepted for LLaVA's scripts; preprocessing is always lazy.")
    is_multimodal: bool = _flag(True, "Accepted for LLaVA's scripts; the data say which samples have images.")

    def __post_init__(self) -> None:
        if not self.data_path:
            raise ValueError("--data_path must be given: a JSON file of conversations")


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """transformers' arguments and LLaVA's additions to them."""

    optim: str = _flag("adamw_torch", "As LLaVA; transformers 5 would take the fused form.")
    remove_unused_columns: bool = _flag(False, "Batches hold what the model's signature does not name.")
    ddp_find_unused_parameters: bool | None = _flag(False, "The loss reaches every trained parameter in every batch.")
    cache_dir: str | None = _flag(None, "Where downloads go.")
    model_max_length: int = _flag(2048, "Tokens, visual ones included, that a sample is cut to.")
    global_batch_size: int | None = _flag(
        None, "Samples of an optimizer step over all processes; sets --gradient_accumulation_steps."
    )
    freeze_mm_mlp_adapter: bool = _flag(False, "Leave the projector as it is.")
    mm_projector_lr: float | None = _flag(None, "Learning rate of the projector; by default --learning_rate.")
    mm_vision_tower_lr: float | None = _flag(None, "Accepted; the tower is frozen in every stage so far.")
    group_by_modality_length: bool = _flag(False, "Batches of one modality and similar length.")
    group_by_length: bool = _flag(False, "Batches of similar length.")
    lora_enable: bool = _flag(False, "Not yet.")
    lora_r: int = 64
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_weight_path: str = ""
    lora_bias: str = "none"
    bits: int = _flag(16, "16; quantised training is not there yet.")
    double_quant: bool = True
    quant_type: str = "nf4"
    mpt_attn_impl: str | None = _flag(None, "Accepted; MPT is not supported.")

    def __post_init__(self) -> None:
        if self.lora_enable or self.bits != 16:
            raise ValueError(
                "--lora_enable and --bits 4/8 are not supported yet; train with --stage projector or finetune"
            )
        if self.mm_vision_tower_lr is not None:
            logger.warning("--mm_vision_tower_lr has no effect: the vision tower is frozen")
        if self.tf32 and not is_torch_tf32_available():
            logger.warning("--tf32 True has no effect: this machine has no GPU with TF32")
            self.tf32: bool | None = None
        if self.global_batch_size is not None:
            self.gradient_accumulation_steps = accumulation_steps(
                self.global_batch_size, self.per_device_train_batch_size, int(os.environ.get("WORLD_SIZE", "1"))
            )
        super().__post_init__()


def accumulation_steps(global_batch_size: int, per_device: int, num_processes: int) -> int:
    """How often gradients are accumulated so that a step sees `global_batch_size` samples.

    Raises:
        ValueError: It does not divide evenly.
    """
    at_once = per_device * num_processes
    if global_batch_size < 1 or global_batch_size % at_once:
        raise ValueError(
            f"--global_batch_size {global_batch_size} is not a multiple of {at_once} "
            f"(--per_device_train_batch_size {per_device} on {num_processes} process(es))"
        )
    return global_batch_size // at_once


@dataclass(frozen=True)
class Arguments:
    """All of them."""

    model: ModelArguments
    data: DataArguments
    training: TrainingArguments

    @property
    def stage(self) -> Stage:
        """The stage that the flags ask for.

        Raises:
            ValueError: They contradict each other.
        """
        return stage_of(
            self.model.stage,
            tune_mm_mlp_adapter=self.model.tune_mm_mlp_adapter,
            freeze_mm_mlp_adapter=self.training.freeze_mm_mlp_adapter,
            freeze_backbone=self.model.freeze_backbone,
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what was asked for, secrets masked."""
        return {
            "stage": self.stage.name,
            "model": asdict(self.model),
            "data": asdict(self.data),
            "training": self.training.to_dict(),
        }


_HAS_ACTIVATION_CHECKPOINTING = any(
    entry.name == "activation_checkpointing" for entry in fields(transformers.TrainingArguments)
)
# Flags that transformers 5 renamed (None: dropped). Their values kept their meaning: a ratio is a number of steps
# below 1.
_RENAMED: dict[str, str | None] = {
    "--evaluation_strategy": "--eval_strategy",
    "--warmup_ratio": "--warmup_steps",
    "--no_cuda": "--use_cpu",
    **({"--gradient_checkpointing": "--activation_checkpointing"} if _HAS_ACTIVATION_CHECKPOINTING else {}),
    "--logging_dir": None,
    "--overwrite_output_dir": None,
    "--save_safetensors": None,
    "--fp16_backend": None,
    "--half_precision_backend": None,
}


def translate_flags(argv: Sequence[str]) -> list[str]:
    """Writes flags of LLaVA's time in the words of transformers 5; those without a meaning today are dropped, and told.

    Args:
        argv: Without the program's name.
    """
    translated: list[str] = []
    dropping = False
    for word in argv:
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            if not dropping:
                translated.append(word)
            continue
        name = name.replace("-", "_").replace("__", "--", 1)
        dropping = name in _RENAMED and _RENAMED[name] is None
        if dropping:
            logger.warning("%s is ignored: transformers 5 has no such setting", name)
            continue
        translated.append(f"{_RENAMED.get(name) or name}{equals}{value}")
    return translated


def parse_arguments(argv: Sequence[str] | None = None) -> Arguments:
    """Reads the command line.

    Args:
        argv: Without the program's name; by default this process's.

    Raises:
        SystemExit: A flag is unknown.
        ValueError: A value is impossible; names the flag.
    """
    parser = transformers.HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    words = translate_flags(sys.argv[1:] if argv is None else argv)
    return Arguments(*parser.parse_args_into_dataclasses(words))
