"""MMTok (Dong et al., ICLR 2026, arXiv 2508.18264): patches that together cover the question and the picture."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor.greedy import (
    Rule,
    cosine,
    cover_gains,
    greedy_cover,
    keep_chosen,
    keep_ranked,
    shares,
)
from llava.model.multimodal_compressor.method_parts import Nested
from llava.model.multimodal_compressor.registry import Need, register_compressor
from llava.model.multimodal_compressor.types import CompressedTokens, VisionFeatures


@dataclass(frozen=True)
class MMTokOptions:
    """Options of MMTok.

    Attributes:
        text: whether the question has a say; false is the visual half alone, which needs no question.
        alpha: weight of the picture against the question's 1; without text it changes nothing.
        text_temperature: of the softmax that shares a word out among patches.
        visual_temperature: of the softmax that shares a patch out among patches.
        rule: the same patches by either rule, for MMTok never chooses one twice.
    """

    text: bool = True
    alpha: float = 0.5
    text_temperature: float = 0.02
    visual_temperature: float = 0.2
    rule: Rule = "reference"

    def __post_init__(self) -> None:
        for name in ("alpha", "text_temperature", "visual_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


# ----- The question ------------------------------------------------------------

_ANSWER_FORMATS = (
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
)

# The public list has 47 words. What it leaves of recorded questions tells 13 of them (a, answer, are, did, how, is, it,
# question, the, to, what, where, you), and that `in`, `of` and `there` are not among them; the other 34 are our guess.
_STOP_WORDS = frozenset(
    "a an the is are was were be been being have has had do does did will would could should can may might must "  # noqa: SIM905
    "what where when why how who which i you he she it we they this that these those question answer to and or".split()
)


def question_keywords(question: str) -> str:
    """What MMTok reads of a question, in its order, joined by blanks.

    Args:
        question: With or without a benchmark's sentence on the form of the answer.

    Returns:
        Its words without stop words; if there are only such, the question.
    """
    for sentence in _ANSWER_FORMATS:
        question = question.replace(sentence, "")
    words = [word for word in re.findall(r"\b\w+\b", question) if word.lower() not in _STOP_WORDS]
    return " ".join(words) or question.strip()


def question_words(question: str) -> list[str]:
    """The words that are embedded, each tokenised by itself.

    Args:
        question: With or without `<image>` in front.
    """
    return question_keywords(question.strip().removeprefix("<image>")).split()


# ----- The selection -----------------------------------------------------------


def coverage(features: VisionFeatures, options: MMTokOptions) -> Tensor:
    """How well each patch (last axis) covers each token of the question and each patch.

    Args:
        features: At the projector: `source` are the tower's rows of the same patches.
        options: With `text`, `question_embeds` are read.

    Returns:
        (B, T + N, N); (B, N, N) without text.

    Raises:
        ValueError: The question is asked for and not there.
    """
    of_patches = shares(cosine(features.source), options.visual_temperature).div_(features.source.shape[1])
    if not options.text:
        return of_patches
    question = features.question_embeds
    if question is None:
        raise ValueError("mmtok reads the question, which is not known here; text=false is its visual half")
    of_tokens = shares(cosine(question.embeds, features.patches), options.text_temperature)
    there = question.mask.unsqueeze(2)  # (B, T, 1)
    of_tokens = of_tokens * there / there.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.cat([of_tokens, of_patches.mul_(options.alpha)], dim=1)


def cover_all(weights: Tensor, num_kept: int, padding: Tensor | None = None) -> Tensor:
    """Adds the patch that covers most of what is not covered yet, K times.

    A step costs (T + N) N.

    Args:
        weights: (B, T + N, N), of `coverage`.
        num_kept: K.
        padding: (B, N), bool: patches that are chosen, in raster order, only where no other is left; None for none.

    Returns:
        (B, K), int64, distinct patches in the order of choice.
    """
    last = weights.new_zeros(weights.shape[0], weights.shape[2]) if padding is None else padding.to(weights.dtype)
    return greedy_cover(weights, num_kept, factor=1 - last, bonus=-last)


def _needs_of(options: MMTokOptions) -> Iterable[Need]:
    return {"question_embeds"} if options.text else ()


def rank(features: VisionFeatures, num_kept: int, options: MMTokOptions) -> tuple[Tensor, Tensor]:
    """Patches in the order of choice, (B, K), and the share of what is to be covered that each covers more, (B, K)."""
    weights = coverage(features, options)
    order = cover_all(weights, num_kept, features.padding)
    return order, cover_gains(weights, order)


@register_compressor(
    "mmtok",
    nested=Nested(rank, keep_ranked),
    needs={"padding"},
    needs_of=_needs_of,
    options=MMTokOptions,
    places=("projected", "pooled"),
    words=question_words,
    chooses=True,
    source="ICLR 2026, arXiv 2508.18264; Ironieser/MMTok d1522cd",
)
def compress(features: VisionFeatures, budget: CompressionConfig, options: MMTokOptions) -> CompressedTokens:
    """MMTok at the seam: the projector's rows are compared with the question, the tower's with each other."""
    return keep_chosen(features, cover_all(coverage(features, options), budget.num_tokens, features.padding))
