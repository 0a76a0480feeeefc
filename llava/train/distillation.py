"""The model as its own teacher: the same weights under a budget with more tokens, and nothing learned there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llava.model.configuration import CompressionConfig
from llava.model.target_loss import TargetOutput, Teaching
from llava.train.budgets import compressed_to
from llava.train.weights import whole


class Teacher:
    """Says what the model predicts for a batch's targets where it sees more.

    Attributes:
        budget: That it sees the images under; None for all tokens.
        weight: See `Teaching`.
        temperature: See `Teaching`.
    """

    def __init__(
        self, model: Any, budget: CompressionConfig | None, weight: float, temperature: float, *, from_start: bool
    ) -> None:
        """Keeps what is needed.

        Args:
            model: Not wrapped, before anything is learned and before a checkpoint of the run is read.
            budget: See the class.
            weight: See the class.
            temperature: See the class.
            from_start: Keep a copy of the projector as it is now, and teach with that; else with the model's own.
        """
        self.budget = budget
        self.weight = weight
        self.temperature = temperature
        self._projector = _frozen_copy(model.model.multi_modal_projector) if from_start else None

    @contextmanager
    def at_work(self, model: Any) -> Iterator[None]:
        """The model under the teacher's budget and with its projector.

        Args:
            model: Not wrapped.
        """
        inner = model.model
        own = inner.multi_modal_projector
        with compressed_to(model, self.budget):
            if self._projector is not None:
                like = next(own.parameters())  # DeepSpeed holds it in another dtype than it begins with
                inner.multi_modal_projector = self._projector.to(device=like.device, dtype=like.dtype)
            try:
                yield
            finally:
                inner.multi_modal_projector = own

    @torch.no_grad()
    def teach(self, model: nn.Module, batch: dict[str, Any]) -> Teaching:
        """The predictions of a batch's targets, in evaluation mode; `at_work` must be entered.

        Args:
            model: As it is called in training, wrapped; it is in training mode afterwards.
            batch: What it is called with to train.
        """
        model.eval()
        try:
            found = model(**batch, target_logits=True)
        finally:
            model.train()
        return Teaching(found.logits, self.weight, self.temperature)


class PartsOfLoss:
    """The two parts of the loss since the last log, each as the loss itself is averaged."""

    def __init__(self) -> None:
        """Begins with nothing."""
        self._sums: list[Tensor] = []
        self._steps: set[int] = set()

    def add(self, found: TargetOutput, step: int) -> None:
        """Adds a micro-batch; nothing waits for the device.

        Args:
            found: Of the model, divided by the targets of the whole step.
            step: The optimizer step under way.
        """
        assert found.target_loss is not None and found.distill_loss is not None
        self._sums.append(torch.stack([found.target_loss, found.distill_loss]).float())
        self._steps.add(step)

    def figures(self, accelerator: Any) -> dict[str, float]:
        """`target_loss` and `distill_loss` over all processes; every process must call it, after a step at least."""
        own = torch.stack(self._sums).sum(dim=0) / len(self._steps)
        target_loss, distill_loss = accelerator.reduce(own, reduction="sum").tolist()
        self._sums, self._steps = [], set()
        return {"target_loss": target_loss, "distill_loss": distill_loss}


def _frozen_copy(projector: nn.Module) -> nn.Module:
    with whole(list(projector.parameters())):
        return copy.deepcopy(projector).requires_grad_(False)
