"""The language-modelling loss from the logits that it looks at, and no others; and what a teacher adds to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers.modeling_outputs import ModelOutput

from llava.constants import IGNORE_INDEX


@dataclass(frozen=True)
class Teaching:
    """What a model learns from another one's predictions, besides the data.

    Attributes:
        logits: (targets, vocabulary), the teacher's, of `TargetOutput`.
        weight: Of the divergence from the teacher in the loss; the data have the rest.
        temperature: By which both sides' logits are divided.
    """

    logits: Tensor
    weight: float
    temperature: float


@dataclass
class TargetOutput(ModelOutput):
    """What a forward pass gives where only targets count.

    Attributes:
        loss: Weighted sum of the following two.
        target_loss: Cross entropy of the data.
        distill_loss: KL(teacher || student) times the squared temperature.
        logits: (targets, vocabulary), float32, in the order of the ids, however the samples were padded or packed.
    """

    loss: Tensor | None = None
    target_loss: Tensor | None = None
    distill_loss: Tensor | None = None
    logits: Tensor | None = None


def loss_at_targets(
    hidden: Tensor, lm_head: nn.Module, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """The loss of transformers without the logits of prompts, images and padding.

    Args:
        hidden: (B, L, D), the last hidden state.
        lm_head: D to the vocabulary.
        labels: (B, L), `IGNORE_INDEX` where there is no target; a label is predicted one place earlier.
        num_items_in_batch: What the sum is divided by; by default the number of targets.

    Raises:
        ValueError: There are no labels.
    """
    rows, targets = _at_targets(hidden, labels)
    logits = lm_head(rows).float()  # (targets, vocabulary)
    return _mean(cross_entropy(logits, targets, reduction="sum"), len(logits), num_items_in_batch)


def logits_at_targets(hidden: Tensor, lm_head: nn.Module, labels: Tensor | None, sources: Tensor | None) -> Tensor:
    """The logits that targets are predicted by, (targets, vocabulary), float32.

    Args:
        hidden: As for `loss_at_targets`.
        lm_head: As for `loss_at_targets`.
        labels: As for `loss_at_targets`.
        sources: (B, L), where the id of each place stood before images were opened and samples packed, by which rows
            are sorted; None if the places are still in that order.

    Raises:
        ValueError: There are no labels.
    """
    return lm_head(_at_targets(hidden, labels, sources)[0]).float()  # type: ignore[no-any-return]


def distilled_loss(
    hidden: Tensor,
    lm_head: nn.Module,
    labels: Tensor | None,
    sources: Tensor | None,
    teaching: Teaching,
    num_items_in_batch: Tensor | int | None = None,
) -> TargetOutput:
    """The loss of the data and of a teacher: (1 - w) CE + w T^2 KL(teacher || student), both over targets.

    Teacher and student may see another number of visual tokens, so that a target has another position in each: what is
    compared is the n-th target with the n-th.

    Source: Hinton et al. 2015, arXiv 1503.02531; with shared weights and fewer tokens, EPIC, arXiv 2510.00515.

    Args:
        hidden: As for `loss_at_targets`.
        lm_head: As for `loss_at_targets`.
        labels: As for `loss_at_targets`.
        sources: As for `logits_at_targets`.
        teaching: The teacher's logits, of the same targets.
        num_items_in_batch: As for `loss_at_targets`.

    Raises:
        ValueError: There are no labels, or the teacher had other targets.
    """
    rows, targets = _at_targets(hidden, labels, sources)
    if len(teaching.logits) != len(targets):
        raise ValueError(f"the teacher has logits of {len(teaching.logits)} targets, and there are {len(targets)}")
    logits = lm_head(rows).float()
    target_loss = _mean(cross_entropy(logits, targets, reduction="sum"), len(logits), num_items_in_batch)
    heat = teaching.temperature
    student, teacher = log_softmax(logits / heat, dim=-1), log_softmax(teaching.logits / heat, dim=-1)
    divergence = kl_div(student, teacher, reduction="sum", log_target=True) * heat**2
    distill_loss = _mean(divergence, len(logits), num_items_in_batch)
    loss = (1 - teaching.weight) * target_loss + teaching.weight * distill_loss
    return TargetOutput(loss=loss, target_loss=target_loss.detach(), distill_loss=distill_loss.detach())


def _at_targets(hidden: Tensor, labels: Tensor | None, sources: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The hidden states (targets, D) that targets are predicted by, and the targets."""
    if labels is None:
        raise ValueError("loss_only needs labels")
    targets = labels[:, 1:].to(hidden.device)
    is_target = targets != IGNORE_INDEX
    rows, targets = hidden[:, :-1][is_target], targets[is_target]
    if sources is None:
        return rows, targets
    order = sources[:, 1:].to(hidden.device)[is_target].argsort()
    return rows[order], targets[order]


def _mean(total: Tensor, count: int, num_items_in_batch: Tensor | int | None) -> Tensor:
    return total / (count if num_items_in_batch is None else torch.as_tensor(num_items_in_batch).to(total.device))
