"""A stage is a name and what it trains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

Part = Literal["mm_projector", "language_model"]


@dataclass(frozen=True)
class Stage:
    """What is trained, and so what is saved.

    Attributes:
        name: As `--stage` says.
        trained: Parts of the model that learn; all others are frozen. The vision tower is frozen in every stage.
    """

    name: str
    trained: frozenset[Part]

    @property
    def saves_projector_only(self) -> bool:
        """Whether the projector is all that changed."""
        return self.trained == {"mm_projector"}


STAGES = {
    stage.name: stage
    for stage in (
        Stage("align", frozenset({"mm_projector"})),  # LLaVA's stage 1: a new projector learns to speak to the LLM
        Stage("projector", frozenset({"mm_projector"})),  # VisionZip's tuning: a trained one gets used to fewer tokens
        Stage("finetune", frozenset({"mm_projector", "language_model"})),  # LLaVA's stage 2
    )
}


def stage_of(
    name: str | None, *, tune_mm_mlp_adapter: bool, freeze_mm_mlp_adapter: bool, freeze_backbone: bool
) -> Stage:
    """The stage that `--stage` names, or that LLaVA's flags mean.

    Raises:
        ValueError: The name is unknown, the flags contradict it, or nothing is left to train.
    """
    if name is not None and name not in STAGES:
        raise ValueError(f"--stage {name!r} is unknown; known: {', '.join(STAGES)}")
    stage = STAGES[name or ("align" if tune_mm_mlp_adapter else "finetune")]
    if tune_mm_mlp_adapter and not stage.saves_projector_only:
        raise ValueError(f"--tune_mm_mlp_adapter True trains the projector only, --stage {name} does not; drop one")
    frozen: set[Part] = set()
    if freeze_mm_mlp_adapter:
        frozen.add("mm_projector")
    if freeze_backbone:
        frozen.add("language_model")
    stage = replace(stage, trained=stage.trained - frozen)
    if not stage.trained:
        raise ValueError(f"--stage {stage.name} with {', '.join(sorted(frozen))} frozen leaves nothing to train")
    return stage


def parameters_of(model: Any, part: Part) -> list[nn.Parameter]:
    """The parameters of a part of a model, trained or not."""
    if part == "mm_projector":
        return list(model.model.multi_modal_projector.parameters())
    parameters = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    newline = getattr(model.model, "image_newline", None)
    return parameters if newline is None else [*parameters, newline]  # LLaVA-NeXT's, trained as in LLaVA


def apply_stage(model: Any, stage: Stage) -> None:
    """Freezes everything but what the stage trains."""
    model.requires_grad_(False)
    for part in stage.trained:
        for parameter in parameters_of(model, part):
            parameter.requires_grad_(True)
