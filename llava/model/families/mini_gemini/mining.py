"""Patch info mining: each patch of CLIP looks at its own part of a ConvNeXt's map of the larger picture.

Source: Mini-Gemini (arXiv 2403.18814), section 3.2, and dvlab-research/MGM 769820cb.
Shapes: B pictures of side S, V views of each, P = n * n patches a view, C channels of CLIP, A channels of the map,
whose side is S / 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import ConvNextConfig, ConvNextModel

_PIXELS_AT_ONCE = 4 * 768**2
"""Of the pictures whose maps are held at a time: 850 MB in half precision under the published ConvNeXt."""


class ConvNextMap(nn.Module):
    """transformers' ConvNeXt without pooling: the outputs of all stages, as one map."""

    def __init__(self, config: ConvNextConfig) -> None:
        """Makes it; what pools the last stage is left out."""
        super().__init__()
        whole = ConvNextModel(config)
        self.embeddings, self.encoder = whole.embeddings, whole.encoder

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, A, S / 4, S / 4): each stage enlarged to the first, one behind the other."""
        hidden, found = self.embeddings(pixels), []
        for stage in self.encoder.stages:
            hidden = stage(hidden)
            found.append(hidden)
        return torch.cat([found[0], *(_resized(each, found[0].shape[-1]) for each in found[1:])], dim=1)


class PatchInfoMining(nn.Module):
    """The second tower, and the attention of patches to their parts of its map."""

    def __init__(self, channels: int, aux_config: Mapping[str, Any]) -> None:
        """Makes it.

        Args:
            channels: C.
            aux_config: `hidden_sizes` and `depths` of the ConvNeXt.
        """
        super().__init__()
        sizes, depths = list(aux_config["hidden_sizes"]), list(aux_config["depths"])
        config = ConvNextConfig(num_stages=len(sizes), hidden_sizes=sizes, depths=depths, drop_path_rate=0.0)
        self.tower = ConvNextMap(config)
        self.query, self.key, self.value = (_layer(width, channels) for width in (channels, sum(sizes), sum(sizes)))

    def forward(self, patches: Tensor, pixels: Tensor, grid: int) -> Tensor:
        """What each patch finds; the maps of a few pictures are held at a time.

        Args:
            patches: (B * V, P, C), of CLIP.
            pixels: (B, 3, S, S), normalised.
            grid: Parts of a picture's side that are views; one view more is of the whole, and stands first.

        Returns:
            (B * V, P, C), to be added to the patches.
        """
        views = len(patches) // len(pixels)
        at_once = pictures_at_once(pixels.shape[-1])
        found = [
            self._of_some(some, larger, grid)
            for some, larger in zip(patches.split(at_once * views), pixels.split(at_once), strict=True)
        ]
        return torch.cat(found)

    def _of_some(self, patches: Tensor, pixels: Tensor, grid: int) -> Tensor:
        """The same of pictures whose maps fit into memory together."""
        aux_map, views = self.tower(pixels), patches.unflatten(0, (len(pixels), -1))
        parts = _views_of(aux_map, grid, has_whole=views.shape[1] > grid**2)
        found = [self._attend(views[:, number], part) for number, part in enumerate(parts)]
        return torch.stack(found, dim=1).flatten(0, 1)

    def _attend(self, patches: Tensor, part: Tensor) -> Tensor:
        """(B, P, C): of one view, (B, P, C) of it and its part of the map (B, A, h, h)."""
        side = int(patches.shape[1] ** 0.5)
        regions = part.unflatten(3, (side, -1)).unflatten(2, (side, -1)).permute(0, 2, 4, 3, 5, 1)
        regions = regions.flatten(1, 2).flatten(2, 3)  # (B, P, places, A)
        scores = self.query(patches).unsqueeze(2) @ (self.key(regions).transpose(2, 3) / patches.shape[2] ** 0.5)
        return (scores.nan_to_num().softmax(dim=-1) @ self.value(regions)).squeeze(2)


def _layer(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels))


def _resized(picture: Tensor, side: int) -> Tensor:
    """(..., h, h) to (..., side, side), bilinearly, in fp32 whatever its dtype; without smoothing, as MGM does."""
    resized = interpolate(picture.float(), (side, side), mode="bilinear", align_corners=False)
    return resized.to(picture.dtype)


def _views_of(aux_map: Tensor, grid: int, *, has_whole: bool) -> Iterator[Tensor]:
    """The parts of a map (B, A, h, h) that the views show, (B, A, h / grid, h / grid) each."""
    side = aux_map.shape[-1] // grid
    if has_whole:
        yield _resized(aux_map, side)
    for row in range(grid):
        for column in range(grid):
            yield aux_map[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side]


def pictures_at_once(side: int) -> int:
    """Pictures of a side whose maps are held at a time."""
    return max(1, _PIXELS_AT_ONCE // side**2)


def clip_views(pixels: Tensor, side: int, grid: int, *, has_whole: bool) -> Tensor:
    """What CLIP is given of larger pictures: made smaller bilinearly, after normalising, and cut.

    Args:
        pixels: (B, 3, S, S), normalised.
        side: That CLIP takes.
        grid: Parts of a picture's side.
        has_whole: Whether a view of the whole stands before the parts.

    Returns:
        (B * V, 3, side, side); the parts of each picture row by row.
    """
    smaller = _resized(pixels, side * grid)
    if grid == 1:
        return smaller
    views = smaller.unflatten(3, (grid, side)).unflatten(2, (grid, side)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    if has_whole:
        views = torch.cat([_resized(smaller, side).unsqueeze(1), views], dim=1)
    return views.flatten(0, 1)
