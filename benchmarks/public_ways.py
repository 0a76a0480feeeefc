"""The greedy methods as their public codes work, written plainly, beside ours: the same patches, another cost.

Each way has two parts, the similarity matrix and the loop over it, so that a benchmark can time them apart. What a
public code does tile by tile, by gathering again what it knew, or on fresh copies is done so here; its waits for the
device are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llava.model.multimodal_compressor import VisionFeatures
from llava.model.multimodal_compressor.cdpruner import dpp_kernel, most_diverse, relevance
from llava.model.multimodal_compressor.divprune import distances, farthest
from llava.model.multimodal_compressor.greedy import cosine
from llava.model.multimodal_compressor.mmtok import MMTokOptions, cover_all, coverage
from llava.model.multimodal_compressor.scope import cover_salient


@dataclass(frozen=True)
class Way:
    """A method in two parts.

    Attributes:
        matrix: Maps the features of B tiles, at the method's place, to what the loop works on.
        loop: Maps that and K to (B, K), the chosen patches in their order.
    """

    matrix: Callable[[VisionFeatures], Any]
    loop: Callable[[Any, int], Tensor]

    def __call__(self, features: VisionFeatures, num_kept: int) -> Tensor:
        """(B, K): both parts."""
        return self.loop(self.matrix(features), num_kept)


# ----- DivPrune: one sample; step i gathers the distances of all i chosen rows --


def _divprune_matrix(features: VisionFeatures) -> list[Tensor]:
    matrices = []
    for rows in features.patches.float():
        unit = rows / rows.norm(dim=1, keepdim=True)
        matrices.append(1.0 - unit @ unit.t())
    return matrices


def _divprune_loop(matrices: list[Tensor], num_kept: int) -> Tensor:
    orders = []
    for distance in matrices:
        chosen = distance.new_zeros(num_kept, dtype=torch.int64)
        for step in range(num_kept):
            if step == 0:
                score = distance.topk(2, dim=0, largest=False).values[1]
            else:
                score = distance[chosen[:step]].min(dim=0).values
            chosen[step] = score.argmax()
        orders.append(chosen)
    return torch.stack(orders)


# ----- SCOPE: the batch at once, on a masked copy of the matrix in each step -----


def _scope_matrix(features: VisionFeatures) -> tuple[Tensor, Tensor]:
    assert features.saliency is not None
    unit = normalize(features.source.float(), dim=2)
    return unit @ unit.transpose(1, 2), features.saliency


def _scope_loop(given: tuple[Tensor, Tensor], num_kept: int) -> Tensor:
    similarity, saliency = given
    chosen = torch.zeros_like(saliency, dtype=torch.bool)
    covered = torch.zeros_like(saliency)
    order = []
    for _ in range(num_kept):
        open_columns = similarity.masked_fill(chosen.unsqueeze(1), 0.0)
        gain = (open_columns - covered.unsqueeze(2)).clamp(min=0).sum(dim=1)
        pick = (gain * saliency).masked_fill(chosen, -torch.inf).argmax(dim=1)
        chosen = chosen.scatter(1, pick.unsqueeze(1), True)
        covered = torch.maximum(covered, similarity[torch.arange(len(pick), device=pick.device), :, pick])
        order.append(pick)
    return torch.stack(order, dim=1)


# ----- MMTok: one sample ---------------------------------------------------------


def _mmtok_matrix(features: VisionFeatures) -> list[Tensor]:
    question, options = features.question_embeds, MMTokOptions()
    assert question is not None
    matrices = []
    for rows, patches, embeds, there in zip(
        features.source.float(), features.patches.float(), question.embeds.float(), question.mask, strict=True
    ):
        unit, words = normalize(rows, dim=1), normalize(embeds[there], dim=1)
        of_tokens = (words @ normalize(patches, dim=1).t() / options.text_temperature).softmax(dim=1) / len(words)
        of_patches = (unit @ unit.t() / options.visual_temperature).softmax(dim=1) / len(unit)
        matrices.append(torch.cat([of_tokens, options.alpha * of_patches]))
    return matrices


def _mmtok_loop(matrices: list[Tensor], num_kept: int) -> Tensor:
    orders = []
    for weights in matrices:
        covered = weights.new_zeros(len(weights))
        chosen = torch.zeros(weights.shape[1], dtype=torch.bool, device=weights.device)
        order = []
        for _ in range(num_kept):
            gain = (weights - covered.unsqueeze(1)).clamp(min=0).sum(dim=0)
            pick = gain.masked_fill(chosen, -torch.inf).argmax()
            chosen[pick] = True
            covered = torch.maximum(covered, weights[:, pick])
            order.append(pick)
        orders.append(torch.stack(order))
    return torch.stack(orders)


# ----- CDPruner: the batch at once, relevance over all tiles of the call ---------


def _cdpruner_matrix(features: VisionFeatures) -> Tensor:
    unit = normalize(features.patches.float(), dim=2)
    similarity = unit @ unit.transpose(1, 2)
    joint = features.clip_joint
    if joint is None:
        return similarity
    text = normalize(joint.text.float(), dim=2).transpose(1, 2)
    relevant = -(normalize(joint.image.float(), dim=2) @ text).mean(dim=2)
    relevant = (relevant - relevant.min() + 1e-6) / (relevant.max() - relevant.min())
    return relevant.unsqueeze(2) * similarity * relevant.unsqueeze(1)


def _cdpruner_loop(kernel: Tensor, num_kept: int) -> Tensor:
    batch, num_patches, _ = kernel.shape
    tile = torch.arange(batch, device=kernel.device)
    factor = kernel.new_zeros(num_kept, batch, num_patches)
    pivots = kernel.diagonal(dim1=1, dim2=2).clone()
    order = kernel.new_zeros(num_kept, batch, dtype=torch.int64)
    for step in range(num_kept):
        pick = pivots.argmax(dim=1)
        order[step] = pick
        known = torch.einsum("sb,sbn->bn", factor[:step, tile, pick], factor[:step])
        factor[step] = (kernel[tile, pick] - known) / pivots[tile, pick].unsqueeze(1).sqrt()
        pivots = pivots - factor[step].square()
        pivots[tile, pick] = -torch.inf
    return order.t()


PUBLIC_WAYS: dict[str, Way] = {
    "divprune": Way(_divprune_matrix, _divprune_loop),
    "scope": Way(_scope_matrix, _scope_loop),
    "mmtok": Way(_mmtok_matrix, _mmtok_loop),
    "cdpruner": Way(_cdpruner_matrix, _cdpruner_loop),
}


# ----- Ours ----------------------------------------------------------------------


def _our_scope_matrix(features: VisionFeatures) -> tuple[Tensor, Tensor]:
    assert features.saliency is not None
    return cosine(features.source), features.saliency


def _our_scope_loop(given: tuple[Tensor, Tensor], num_kept: int) -> Tensor:
    similarity, saliency = given
    return cover_salient(similarity, saliency, num_kept)


def _our_cdpruner_matrix(features: VisionFeatures) -> Tensor:
    relevant = None
    if features.clip_joint is not None:
        assert features.image_index is not None
        relevant = relevance(features.clip_joint, features.image_index)
    return dpp_kernel(features.patches, relevant)


OUR_WAYS: dict[str, Way] = {
    "divprune": Way(lambda features: distances(features.patches), farthest),
    "scope": Way(_our_scope_matrix, _our_scope_loop),
    "mmtok": Way(lambda features: coverage(features, MMTokOptions()), cover_all),
    "cdpruner": Way(_our_cdpruner_matrix, most_diverse),
}
