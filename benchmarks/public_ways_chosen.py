"""Methods that keep attended patches or merge, as their public codes work, written plainly, beside ours.

Each way has two parts: what is known before tokens are made one by one or in rounds, and that loop, which gives the
tokens (B, K, C). What a public code does tile by tile or token by token is done so here; waits for the device are left
out.
"""

from __future__ import annotations

import torch
from public_ways import Way
from torch import Tensor
from torch.nn.functional import normalize

from llava.model.multimodal_compressor import VisionFeatures
from llava.model.multimodal_compressor.greedy import cosine
from llava.model.multimodal_compressor.holov import HoloVOptions
from llava.model.multimodal_compressor.holov import select as holov_patches
from llava.model.multimodal_compressor.prumerge import by_attention, class_attention, merge
from llava.model.multimodal_compressor.tome import Groups, group_means, match_down_to, schedule
from llava.model.multimodal_compressor.types import gather_rows
from llava.model.multimodal_compressor.vispruner import rounds, thin

Given = tuple[Tensor, ...]


def _mean_attention(features: VisionFeatures) -> Tensor:
    """(B, N): mean over the heads."""
    assert features.cls_attention is not None
    return features.cls_attention.mean(dim=1)


# ----- FasterVLM: the batch at once ----------------------------------------------


def _fastervlm_matrix(features: VisionFeatures) -> Given:
    return features.patches, _mean_attention(features)


def _fastervlm_loop(given: Given, num_kept: int) -> Tensor:
    patches, attention = given
    return gather_rows(patches, attention.topk(num_kept, dim=1).indices.sort(dim=1).values)


# ----- VisPruner: the batch at once; a product of A and B in every round ---------


def _vispruner_matrix(features: VisionFeatures) -> Given:
    order = _mean_attention(features).argsort(dim=1, descending=True)
    return features.patches, normalize(features.patches.float(), dim=2), order


def _vispruner_loop(given: Given, num_kept: int) -> Tensor:
    patches, unit, order = given
    first = int(0.5 * num_kept)
    rest = order[:, first:]
    while rest.shape[1] > num_kept - first:
        dropped = min(8, rest.shape[1] - num_kept + first)
        rows = gather_rows(unit, rest)
        nearest = (rows[:, ::2] @ rows[:, 1::2].transpose(1, 2)).max(dim=2).values
        ranked = nearest.argsort(dim=1, descending=True)[:, dropped:]
        rest = torch.cat([rest[:, ::2].gather(1, ranked), rest[:, 1::2]], dim=1)
    is_kept = torch.zeros_like(order, dtype=torch.bool)
    is_kept.scatter_(1, order[:, :first], True).scatter_(1, rest, True)
    return patches[is_kept].view(len(patches), num_kept, -1)


# ----- HoloV: tile by tile and run by run ----------------------------------------


def _holov_matrix(features: VisionFeatures) -> list[tuple[Tensor, list[Tensor], Tensor]]:
    found = []
    for rows, seen in zip(features.patches, _mean_attention(features), strict=True):
        scores, runs = [], list(seen.tensor_split(16))
        for part, attention in zip(rows.tensor_split(16), runs, strict=True):
            unit = normalize(part.float(), dim=1)
            similarity = (unit @ unit.t()) * (1 - torch.eye(len(unit), device=unit.device))
            mean = similarity.sum(dim=1, keepdim=True) / (len(unit) - 1)
            variance = (similarity - mean).square().sum(dim=1) / (len(unit) - 1)
            scaled = 1000 * attention
            scores.append((scaled + 0.09 * variance * scaled.mean() / variance.mean()).mean())
        found.append((rows, runs, torch.stack(scores)))
    return found


def _holov_loop(given: list[tuple[Tensor, list[Tensor], Tensor]], num_kept: int) -> Tensor:
    tiles = []
    for rows, runs, scores in given:
        budget = (scores / scores.sum() * num_kept).floor().long()
        budget[scores.argsort(descending=True)[: num_kept - int(budget.sum())]] += 1
        kept, start = [], 0
        for attention, count in zip(runs, budget.tolist(), strict=True):
            part = rows[start : start + len(attention)]
            kept.append(part if count >= len(part) else part[attention.topk(count).indices])
            start += len(attention)
        tokens = torch.cat(kept)
        tiles.append(torch.cat([tokens, tokens.new_zeros(num_kept - len(tokens), tokens.shape[1])]))
    return torch.stack(tiles)


# ----- PruMerge: token by token --------------------------------------------------


def _prumerge_matrix(features: VisionFeatures) -> Given:
    assert features.last_layer_qk is not None
    queries, keys = (part.float() for part in features.last_layer_qk)
    attention = (queries @ keys.transpose(1, 2) * keys.shape[2] ** -0.5).softmax(dim=2)[:, 0, 1:]  # the whole map
    return features.patches.float(), normalize(keys[:, 1:], dim=2), attention


def _prumerge_loop(given: Given, num_kept: int) -> Tensor:
    tiles = []
    for rows, unit, attention in zip(*given, strict=True):
        order = attention.argsort(descending=True)
        kept, left = order[: num_kept - 1], order[num_kept - 1 :]
        tokens = []
        for place in range(num_kept - 1):
            others = torch.cat([kept[:place], kept[place + 1 :], left])
            nearest = others[(unit[others] @ unit[kept[place]]).topk(32).indices]
            tokens.append(rows[kept[place]] + (attention[nearest].unsqueeze(1) * rows[nearest]).sum(dim=0))
        tokens.append((attention[left].unsqueeze(1) * rows[left]).sum(dim=0))
        tiles.append(torch.stack(tokens))
    return torch.stack(tiles)


# ----- ToMe: the batch at once; rows are means after every matching --------------


def _tome_matrix(features: VisionFeatures) -> Given:
    assert features.keys is not None
    sizes = torch.ones_like(features.content[:, :, :1], dtype=torch.float32)
    return features.content.float(), features.keys.float(), sizes


def _tome_loop(given: Given, num_kept: int) -> Tensor:
    rows, keys, sizes = given
    for count in schedule(rows.shape[1], num_kept + 1, 1):
        unit = keys / keys.norm(dim=2, keepdim=True)
        similarity = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
        similarity[:, 0] = -torch.inf
        best, target = similarity.max(dim=2)
        order = best.argsort(dim=1, descending=True)
        joining, left = order[:, :count], order[:, count:].sort(dim=1).values
        target = target.gather(1, joining)

        def merged(values: Tensor, joining: Tensor = joining, left: Tensor = left, target: Tensor = target) -> Tensor:
            even, odd = values[:, ::2], values[:, 1::2]
            where = target.unsqueeze(2).expand(-1, -1, values.shape[2])
            odd = odd.scatter_reduce(1, where, gather_rows(even, joining), reduce="sum")
            return torch.cat([gather_rows(even, left), odd], dim=1)

        new = merged(sizes)
        rows, keys, sizes = merged(rows * sizes) / new, merged(keys * sizes) / new, new
    return rows[:, 1:]


PUBLIC_WAYS: dict[str, Way] = {
    "fastervlm": Way(_fastervlm_matrix, _fastervlm_loop),
    "vispruner": Way(_vispruner_matrix, _vispruner_loop),
    "holov": Way(_holov_matrix, _holov_loop),
    "prumerge": Way(_prumerge_matrix, _prumerge_loop),
    "tome": Way(_tome_matrix, _tome_loop),
}


# ----- Ours ----------------------------------------------------------------------


def _our_attention(features: VisionFeatures) -> Given:
    assert features.saliency is not None
    return features.patches, features.saliency


def _our_vispruner_matrix(features: VisionFeatures) -> Given:
    assert features.saliency is not None
    return features.patches, cosine(features.patches), features.saliency.argsort(dim=1, descending=True)


def _our_vispruner_loop(given: Given, num_kept: int) -> Tensor:
    patches, similarity, order = given
    first = int(0.5 * num_kept)
    rest = thin(similarity, order[:, first:], rounds(order.shape[1] - first, num_kept - first))
    return gather_rows(patches, torch.cat([order[:, :first], rest], dim=1).sort(dim=1).values)


def _our_holov_loop(given: Given, num_kept: int) -> Tensor:
    patches, saliency = given
    index = holov_patches(saliency, num_kept, HoloVOptions())
    return gather_rows(patches, index.clamp(min=0)).masked_fill((index < 0).unsqueeze(2), 0.0)


def _our_prumerge_matrix(features: VisionFeatures) -> Given:
    assert features.last_layer_qk is not None
    queries, keys = features.last_layer_qk
    return features.patches, keys[:, 1:], class_attention(queries, keys)


def _our_prumerge_loop(given: Given, num_kept: int) -> Tensor:
    patches, keys, attention = given
    return merge(patches, keys, attention, by_attention(attention, num_kept - 1)).tokens


def _our_tome_matrix(features: VisionFeatures) -> tuple[Tensor, Groups]:
    assert features.keys is not None
    return features.patches, Groups.single(features.keys)


def _our_tome_loop(given: tuple[Tensor, Groups], num_kept: int) -> Tensor:
    patches, groups = given
    found = match_down_to(groups, num_kept + 1, is_protected=True)
    return group_means(patches, found.group[:, 1:] - 1, num_kept)[0]


OUR_WAYS: dict[str, Way] = {
    "fastervlm": Way(_our_attention, _fastervlm_loop),
    "vispruner": Way(_our_vispruner_matrix, _our_vispruner_loop),
    "holov": Way(_our_attention, _our_holov_loop),
    "prumerge": Way(_our_prumerge_matrix, _our_prumerge_loop),
    "tome": Way(_our_tome_matrix, _our_tome_loop),
}
