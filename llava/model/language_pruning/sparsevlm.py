"""SparseVLM (Zhang et al., ICML 2025, arXiv 2410.04417): words of the question rate the rows of the image, in stages.

Version 1 clusters a part of what it drops, keeps the means, and numbers anew. Version 2 merges nothing and keeps
positions; attention is divided by what position alone would give, and heads that look at the image count.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from llava.model.language_pruning.density_peaks import cluster_means
from llava.model.language_pruning.prompt_rows import MergedRows, gather_rows
from llava.model.language_pruning.raters import by_image, find_raters
from llava.model.language_pruning.registry import register_pruner
from llava.model.language_pruning.schedule import (
    Schedule,
    Stage,
    fit_last_stage,
    largest_below,
    scaled_layers,
    stage_layers,
    unpruned,
)
from llava.model.language_pruning.stage_view import StageView

Name = Literal["mean", 64, 96, 128, 192]

_LAYERS = (3, 7, 16)  # that have run; the public code calls the last of them 2, 6 and 15
_ROWS, _HEADS = 576, 14
_AT_ONCE = 64  # rows of text of which attention is held, in all heads
# Rows of 576 that stay as they are, by version and by the name that the paper gives the list.
_KEPT: dict[int, dict[Name, tuple[int, ...]]] = {
    1: {64: (66, 30, 17), 96: (238, 48, 26), 128: (303, 110, 36), 192: (300, 200, 110)},
    2: {64: (66, 34, 20), 96: (246, 54, 28), 128: (238, 108, 60), 192: (300, 200, 118)},
}


@dataclass(frozen=True)
class SparseVLMOptions:
    """Options of SparseVLM.

    Attributes:
        version: 1 or 2.
        schedule: `mean` goes between the published lists, scaled to the image, so that the budget comes out; a name of
            the paper (192, 128, 96, 64) takes its list as it is.
        layers: How many layers have run at each of three stages; by default 3/7/16, scaled to the language model
            unless a published list is asked for.
        heads: Of version 2: how many heads count.
        noise: Of version 1: the largest number that is added to a density, drawn by `seed`; the public code has 1e-6
            and no seed.
    """

    version: Literal[1, 2] = 1
    schedule: Name = "mean"
    layers: tuple[int, ...] = ()
    heads: int = _HEADS
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.schedule != "mean" and len(self.layers) not in (0, len(_LAYERS)):
            raise ValueError(f"layers has {len(self.layers)} numbers, and a published schedule has {len(_LAYERS)}")
        if len(self.layers) > len(_LAYERS):
            raise ValueError(f"layers has {len(self.layers)} numbers, and there are {len(_LAYERS)} stages at most")
        if self.heads < 1 or self.noise < 0:
            raise ValueError(f"heads={self.heads} must be at least 1, and noise={self.noise} at least 0")


def plan(rows: int, num_layers: int, mean: int, options: SparseVLMOptions) -> Schedule:
    """Three stages, or as many as fit; see `Pruner.plan`."""
    lists, stage_of = _KEPT[options.version], partial(_stage, merges=options.version == 1)
    named = None if options.schedule == "mean" else lists[options.schedule]
    places = options.layers or (_LAYERS if named else scaled_layers(_LAYERS, num_layers))
    layers = stage_layers(places, num_layers, "layers")

    def schedule(kept: tuple[float, ...]) -> Schedule:
        stages: list[Stage] = []
        for place, wanted in zip(layers, kept[-len(layers) :], strict=True):
            before = stages[-1].rows if stages else rows
            stages.append(stage_of(place, before, min(max(1, int(wanted)), before)))
        return Schedule(rows, num_layers, tuple(stages))

    if named is not None:
        return schedule(named)
    if rows <= mean:
        return unpruned(rows, num_layers, layers)
    fewest, all_rows = (0,) * len(_LAYERS), (_ROWS,) * len(_LAYERS)
    path = [fewest, *lists.values(), all_rows]

    def along(share: float) -> Schedule:
        number, part = divmod(share * (len(path) - 1), 1)
        low, high = list(pairwise(path))[min(int(number), len(path) - 2)]
        part += max(0, number - (len(path) - 2))
        return schedule(tuple((a + (b - a) * part) * rows / _ROWS for a, b in zip(low, high, strict=True)))

    last = layers[-1]
    return fit_last_stage(largest_below(along, mean), mean, lambda before, kept: stage_of(last, before, kept))


def _stage(layers_run: int, before: int, kept: int, *, merges: bool) -> Stage:
    """A stage that keeps so many of the rows before it; version 1 makes one row of about ten that it clusters."""
    if kept >= before:
        return Stage(layers_run, before)
    return Stage(layers_run, kept, _clusters(_recycled(before - kept)) if merges else 0)


def _recycled(dropped: int) -> int:
    """How many of the dropped rows are clustered."""
    return int(dropped * 0.3) + 1


def _clusters(recycled: int) -> int:
    return recycled // 10 + 1


def merge(view: StageView, places: Tensor, options: SparseVLMOptions) -> MergedRows:
    """Means of clusters of the best of what is dropped; see `Pruner.merge`."""
    owner, hidden = view.rows.owner, view.rows.hidden
    width = max(sum(stage.merged for stage in each) for each in view.stages)
    rows = hidden.new_zeros(len(owner), width, hidden.shape[2])
    owners = owner.new_full((len(owner), width), -1)
    for (count, stage), members in _alike(view).items():
        prompts, images, starts = torch.tensor(members, device=owner.device).unbind(dim=1)
        own, places_of = owner[prompts] == images.unsqueeze(1), places[prompts]
        recycled = _recycled(count - stage.kept)
        order = torch.where(own & (places_of >= stage.kept), places_of, owner.shape[1]).argsort(dim=1, stable=True)
        points = gather_rows(hidden[prompts], order[:, :recycled])  # the best first
        means = cluster_means(points, stage.merged, _noise(recycled, view, options))
        at = prompts.unsqueeze(1), starts.unsqueeze(1) + torch.arange(stage.merged, device=owner.device)
        rows[at] = means.to(rows)
        owners[at] = images.unsqueeze(1).expand(-1, stage.merged)
    return MergedRows(rows, owners)


def _alike(view: StageView) -> dict[tuple[int, Stage], list[tuple[int, int, int]]]:
    """Images of which as many rows are clustered, so that they go together.

    Returns:
        By rows and stage: prompt, image, and where its means begin among those of the prompt.
    """
    groups: dict[tuple[int, Stage], list[tuple[int, int, int]]] = {}
    for prompt, (counts, stages) in enumerate(zip(view.counts, view.stages, strict=True)):
        start = 0
        for image, (count, stage) in enumerate(zip(counts, stages, strict=True)):
            if stage.merged:
                groups.setdefault((count, stage), []).append((prompt, image, start))
            start += stage.merged
    return groups


def _noise(count: int, view: StageView, options: SparseVLMOptions) -> Tensor | None:
    """(count,), the same for every image."""
    if not options.noise:
        return None
    generator = torch.Generator().manual_seed(view.seed + view.number)
    return (torch.rand(count, generator=generator) * options.noise).to(view.rows.hidden.device)


@register_pruner(
    "sparsevlm",
    plan=plan,
    options=SparseVLMOptions,
    renumbers=lambda options: options.version == 1,
    merge=merge,
    source="arXiv 2410.04417; Gumpest/SparseVLMs, main (1_0, 1_5) and 2_0",
)
def score(view: StageView, options: SparseVLMOptions) -> Tensor:
    """Keeps, in stages, what words of the question that speak of the image attend to in the layer that has just run."""
    raters = find_raters(view.first, max(1, view.text), max(map(len, view.counts)))  # (B, I, T)
    rated = rate(view, raters / raters.sum(dim=2, keepdim=True), beyond_position=options.version == 2)
    if options.version == 2:
        heads = heads_on_image(rated, view.rows.owner, options.heads).unsqueeze(3).expand(-1, -1, -1, view.rows.width)
        rated = rated.gather(2, heads)
    return rated.mean(dim=2).gather(1, view.rows.owner.clamp(min=0).unsqueeze(1)).squeeze(1)


def rate(view: StageView, raters: Tensor, *, beyond_position: bool) -> Tensor:
    """Attention of the raters, mean over them.

    Args:
        view: Of the stage.
        raters: (B, I, T), shares of the last T rows.
        beyond_position: Whether it is divided by what position alone gives.

    Returns:
        (B, I, H, L), float32.
    """
    count = raters.shape[2]
    parts = []
    for begin in range(0, count, _AT_ONCE):
        some = raters[..., begin : begin + _AT_ONCE]
        asked = some.shape[2], count - begin - some.shape[2]
        attention = view.attention_of_last(*asked)  # (B, H, some, L)
        if beyond_position:
            attention = attention / view.attention_by_position(*asked)
        parts.append(torch.einsum("bit,bhtl->bihl", some.to(attention.device), attention))
    return torch.stack(parts).sum(dim=0)


def heads_on_image(rated: Tensor, owner: Tensor, count: int) -> Tensor:
    """The heads of largest sum over an image's rows.

    Args:
        rated: (B, I, H, L).
        owner: (B, L).
        count: How many; all if there are fewer.

    Returns:
        (B, I, count), int64.
    """
    images = rated.shape[1]
    means = [by_image(rated[:, image].transpose(1, 2), owner, images)[:, image] for image in range(images)]
    return torch.stack(means, dim=1).topk(min(count, rated.shape[2]), dim=2).indices
