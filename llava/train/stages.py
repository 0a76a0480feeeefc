"""A stage is a name and what it trains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from llava.train.adapters import adapter_names

Part = Literal["mm_projector", "language_model", "adapters"]


@dataclass(frozen=True)
class Stage:
    """What is trained, and so what is saved.

    Attributes:
        name: As `--stage` says.
        trained: Parts of the model that learn; all others are frozen. The vision tower is frozen in every stage.
        quantised: Whether the language model is in 4 or 8 bits.
    """

    name: str
    trained: frozenset[Part]
    quantised: bool = False

    @property
    def saves_projector_only(self) -> bool:
        """Whether the projector is all that changed."""
        return self.trained == {"mm_projector"}

    @property
    def has_adapters(self) -> bool:
        """Whether LoRA adapters learn in the place of the language model."""
        return "adapters" in self.trained


STAGES = {
    stage.name: stage
    for stage in (
        Stage("align", frozenset({"mm_projector"})),  # LLaVA's stage 1: a new projector learns to speak to the LLM
        Stage("projector", frozenset({"mm_projector"})),  # VisionZip's tuning: a trained one gets used to fewer tokens
        Stage("finetune", frozenset({"mm_projector", "language_model"})),  # LLaVA's stage 2
        Stage("lora", frozenset({"mm_projector", "adapters"})),  # the same with less memory
        Stage("qlora", frozenset({"mm_projector", "adapters"}), quantised=True),  # with less still
    )
}


def stage_of(
    name: str | None,
    *,
    tune_mm_mlp_adapter: bool,
    freeze_mm_mlp_adapter: bool,
    freeze_backbone: bool,
    lora_enable: bool = False,
    bits: int = 16,
) -> Stage:
    """The stage that `--stage` names, or that LLaVA's flags mean.

    Raises:
        ValueError: The name is unknown, the flags contradict it, or nothing is left to train.
    """
    if name is not None and name not in STAGES:
        raise ValueError(f"--stage {name!r} is unknown; known: {', '.join(STAGES)}")
    meant = ("lora" if bits == 16 else "qlora") if lora_enable else "align" if tune_mm_mlp_adapter else "finetune"
    stage = STAGES[name or meant]
    if tune_mm_mlp_adapter and not stage.saves_projector_only:
        raise ValueError(
            f"--tune_mm_mlp_adapter True trains the projector only, --stage {stage.name} does not; drop one"
        )
    if lora_enable and not stage.has_adapters:
        raise ValueError(f"--lora_enable True trains adapters, --stage {stage.name} does not; drop one")
    _check_bits(stage, bits)
    frozen: set[Part] = set()
    if freeze_mm_mlp_adapter:
        frozen.add("mm_projector")
    if freeze_backbone:
        frozen.add("language_model")
    stage = replace(stage, trained=stage.trained - frozen)
    if not stage.trained:
        raise ValueError(f"--stage {stage.name} with {', '.join(sorted(frozen))} frozen leaves nothing to train")
    return stage


def _check_bits(stage: Stage, bits: int) -> None:
    if stage.quantised and bits == 16:
        raise ValueError(f"--stage {stage.name} quantises the language model; give --bits 4 or --bits 8")
    if bits != 16 and not stage.quantised:
        raise ValueError(
            f"--bits {bits} quantises the language model, which --stage {stage.name} does not expect: "
            "quantised weights cannot be trained, adapters on them can; say --stage qlora (LLaVA: --lora_enable True)"
        )


def parameters_of(model: Any, part: Part) -> list[nn.Parameter]:
    """The parameters of a part of a model, trained or not."""
    if part == "mm_projector":
        return list(model.model.multi_modal_projector.parameters())
    if part == "adapters":
        names = adapter_names(model)
        parameters = [parameter for name, parameter in model.named_parameters() if name in names]
    else:
        parameters = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    newline = getattr(model.model, "image_newline", None)
    return parameters if newline is None else [*parameters, newline]  # LLaVA-NeXT's, trained as in LLaVA


def apply_stage(model: Any, stage: Stage) -> None:
    """Freezes everything but what the stage trains."""
    model.requires_grad_(False)
    for part in stage.trained:
        for parameter in parameters_of(model, part):
            if not parameter.is_floating_point():
                raise ValueError(f"the checkpoint is quantised, and stage {stage.name} would train {part} in it")
            parameter.requires_grad_(True)
