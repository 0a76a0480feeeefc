"""The flags of `train.py` that are not transformers' own: what each is called, its default, and what it means.

Names are LLaVA's. Defaults differ where LLaVA's are those of its first release: `--version`, `--model_max_length`,
`--mm_vision_select_layer` and `--mm_use_im_patch_token`, which all its published scripts override, and
`--mm_projector_type`, which those of the first release leave at `linear`. Nothing heavy is imported here, so that
`--help` is there at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from llava.constants import TUNING_FLAGS
from llava.train.bounds import check_values


def _flag(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """What is trained."""

    model_name_or_path: str = _flag(None, "A LLaVA checkpoint (either format), or a language model to make one from.")
    stage: str | None = _flag(
        None, "align, projector, finetune, lora or qlora; by default what LLaVA's flags mean, else finetune."
    )
    compression: str | None = _flag(
        None, "METHOD:DOMINANT+CONTEXTUAL as in visionzip:54+10, or none; by default as the checkpoint says."
    )
    version: str | None = _flag(
        None,
        "Prompt template: a name of llava.conversation, `plain` for alignment; by default that in which the model is "
        "asked.",
    )
    vision_tower: str | None = _flag(
        None, "The tower that a language model is joined with; a LLaVA checkpoint has its own."
    )
    pretrain_mm_mlp_adapter: str | None = _flag(
        None, "Projector to start from: a file of LLaVA's, or a folder of ours."
    )
    mm_projector_type: str = _flag(
        "mlp2x_gelu", "Projector made for a plain language model: linear, mlpNx_gelu or identity."
    )
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
        check_values(self)
        if not self.model_name_or_path:
            raise ValueError("--model_name_or_path must be given: a LLaVA checkpoint or a language model")
        for name in ("mm_use_im_start_end", "mm_use_im_patch_token"):
            if getattr(self, name):
                raise ValueError(f"--{name} True is not supported; LLaVA-1.5 and later train with False")


@dataclass
class DataArguments:
    """What it is trained on."""

    data_path: str = _flag(
        None,
        "LLaVA's JSON (or JSONL); or a table: hf:OWNER/NAME[/CONFIG][:SPLIT][@REVISION], a folder or 'pattern' of "
        "parquet or Arrow files, a save_to_disk folder.",
    )
    data_cache: str | None = _flag(
        None, "Folder for an Arrow copy of parquet tables, written once; by default they are read in place."
    )
    image_folder: str | None = _flag(None, "Where the paths of the images begin; tables may hold their images.")
    image_aspect_ratio: str | None = _flag(
        None, "square, pad or anyres; by default the checkpoint's, and square for a plain language model, as in LLaVA."
    )
    image_grid_pinpoints: str | None = _flag(None, "For anyres on a plain language model: [(w, h), ...].")
    data_fraction: float = _flag(1.0, "Train on this part of the data, drawn by --data_seed (or --seed).")
    feature_cache: str | None = _flag(
        None, "Store of vision tokens, filled once and read in place of the images; shared by all processes."
    )
    max_bad_fraction: float = _flag(
        0.001, "The run stops, with a list, when more than this part of the images cannot be decoded."
    )
    eval_data_path: str | None = _flag(
        None, "Held-out data, named as in --data_path, evaluated as --eval_strategy says; by default each epoch."
    )
    eval_generate: int = _flag(0, "Held-out questions that are also answered by generation at each evaluation.")
    lazy_preprocess: bool = _flag(True, "Accepted for LLaVA's scripts; preprocessing is always lazy.")
    is_multimodal: bool = _flag(True, "Accepted for LLaVA's scripts; the data say which samples have images.")

    def __post_init__(self) -> None:
        check_values(self)
        if not self.data_path:
            raise ValueError("--data_path must be given: a JSON file or a table of conversations")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"--max_bad_fraction {self.max_bad_fraction} must be between 0 and 1")
        if self.eval_generate < 0:
            raise ValueError(f"--eval_generate {self.eval_generate} must not be negative")
        if self.eval_generate and self.eval_data_path is None:
            raise ValueError(f"--eval_generate {self.eval_generate} needs the questions of --eval_data_path")


@dataclass
class TrainingFlags:
    """How it is trained: LLaVA's additions to transformers' arguments, and other defaults of these."""

    logging_nan_inf_filter: bool = _flag(False, "A loss that is not a number is logged as it is, not left out.")
    optim: str = _flag("adamw_torch", "As LLaVA; transformers 5 would take the fused form.")
    remove_unused_columns: bool = _flag(False, "Batches hold what the model's signature does not name.")
    ddp_find_unused_parameters: bool | None = _flag(False, "The loss reaches every trained parameter in every batch.")
    cache_dir: str | None = _flag(None, "Where downloads go.")
    model_max_length: int = _flag(2048, "Tokens, visual ones included, that a sample is cut to.")
    gradient_accumulation_steps: int = _flag(1, "Batches of a process in an optimizer step.")
    global_batch_size: int | None = _flag(
        None, "Samples of an optimizer step over all processes; sets --gradient_accumulation_steps."
    )
    freeze_mm_mlp_adapter: bool = _flag(False, "Leave the projector as it is.")
    mm_projector_lr: float | None = _flag(None, "Learning rate of the projector; by default --learning_rate.")
    mm_vision_tower_lr: float | None = _flag(None, "Accepted; the tower is frozen in every stage so far.")
    group_by_modality_length: bool = _flag(False, "Batches of one modality and similar length.")
    group_by_length: bool = _flag(False, "Batches of similar length.")
    lora_enable: bool = _flag(False, "LLaVA's name for --stage lora, and with --bits 4 or 8 for --stage qlora.")
    lora_r: int = _flag(64, "Rank of the adapters.")
    lora_alpha: int = _flag(16, "Their scale is lora_alpha / lora_r.")
    lora_dropout: float = _flag(0.05, "On their inputs.")
    lora_weight_path: str = _flag("", "Accepted; without effect, as in LLaVA.")
    lora_bias: str = _flag("none", "Biases trained besides: none, lora_only (of adapted layers), all (of the LLM).")
    bits: int = _flag(16, "4 or 8: the language model is quantised by bitsandbytes, for --stage qlora.")
    double_quant: bool = _flag(True, "With 4 bits: quantise the scales too.")
    quant_type: str = _flag("nf4", "With 4 bits: nf4 or fp4.")
    mpt_attn_impl: str | None = _flag(None, "Accepted; MPT is not supported.")
    compression_schedule: str | None = _flag(
        None,
        "linear, cosine or steps (halved): how visual tokens fall to --compression during the run.",
    )
    compression_start: str | None = _flag(
        None, "Where --compression_schedule begins: none (all tokens, the default), tokens of a tile, or a budget."
    )
    compression_share: float = _flag(0.5, "The part of all steps over which --compression_schedule falls.")
    compression_draw: str | None = _flag(
        None,
        "Budgets that each step draws one of, so that one projector serves them all: totals of a tile as in 20-98 or "
        "20,49,98, or budgets as in visionzip:17+3,visionzip:41+8; of the method of --compression, which is one.",
    )
    distill_from: str | None = _flag(
        None,
        "The less compressed budget under which the model is its own teacher, none for all tokens.",
    )
    distill_weight: float = _flag(0.7, "Of the divergence from the teacher in the loss; the data have the rest.")
    distill_temperature: float = _flag(1.0, "Divides the logits of teacher and student; the divergence is times T^2.")
    distill_teacher: str = _flag(
        "start", "The teacher's projector: start, as it was when the run began, or current, as it is being tuned."
    )
    packing: bool = _flag(False, "Lay the samples of a batch end to end instead of padding them; the same losses.")
    peak_tflops: float | None = _flag(
        None, "Dense TFLOP/s of a device in the dtype of the run, for the MFU; by default by the device's name."
    )

    @property
    def distills(self) -> bool:
        """Whether there is a teacher: one without weight is not asked."""
        return self.distill_from is not None and self.distill_weight > 0

    def tuning_flags(self) -> dict[str, Any]:
        """Flags of tuning under compression that have an effect, by name; none in a run without them."""
        is_on = {"compression_draw": self.compression_draw is not None, "distill_from": self.distills}
        is_on["compression_schedule"] = self.compression_schedule is not None
        named = [name for flag, further in TUNING_FLAGS.items() if is_on[flag] for name in (flag, *further)]
        return {name: getattr(self, name) for name in named}

    def idle_tuning_flags(self) -> list[tuple[str, str]]:
        """Flags that are set and have no effect, each with the one that it belongs to."""
        defaults = {entry.name: entry.default for entry in fields(TrainingFlags)}
        return [
            (name, flag)
            for flag, further in TUNING_FLAGS.items()
            if getattr(self, flag) is None
            for name in further
            if getattr(self, name) != defaults[name]
        ]
