"""Runs a tower over images, and keeps what figure and JSON need: each patch's share of the attention, and what is kept.

Shapes: n images, P patches of a tile. Of an image in tiles the first is measured, which shows all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from llava.analysis.redundancy.parts import Part, Parts, key_of
from llava.analysis.redundancy.spread import Distribution, Shares
from llava.images.processing import process_images
from llava.images.source import UnreadableImageError, open_image
from llava.images.tile_pixels import shown_pixels
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import BoundCompressor, compressor_of
from llava.model.multimodal_compressor.registry import Need
from llava.model.multimodal_compressor.types import CompressedTokens, VisionFeatures
from llava.model.multimodal_encoder import extract_features, saliency_of_layers, selected_depth
from llava.model.padding import padding_patches
from llava.model.tower_alone import TowerAlone

TOWER_NEEDS = frozenset({"keys", "saliency", "digest", "cls_attention", "last_layer_qk", "image_index", "padding"})
"""What a tower alone can tell a method of compression."""

_LADDER = (1 / 36, 1 / 18, 1 / 9, 2 / 9, 1 / 3, 1 / 2)
"""Budgets as shares of a tile: 16, 32, 64, 128, 192 and 288 of 576 patches, the paper's among them."""


@dataclass
class Measured:
    """What was measured of a tower.

    Attributes:
        layers: Layers whose attention was read, 1 the first; the one that a LLaVA takes is among them.
        selected: That one.
        shares: Layer -> (n, P), each patch's share of the attention.
        kept: Budget -> (n,), the share of the selected layer's attention on patches that it keeps as they are.
        pictures: (H, W, 3) between 0 and 1, of the first images, as the tower is given them.
        unreadable: Images that were left out, and why.
    """

    layers: tuple[int, ...]
    selected: int
    shares: dict[int, Shares] = field(default_factory=dict)
    kept: dict[CompressionConfig, NDArray[np.float64]] = field(default_factory=dict)
    pictures: list[NDArray[np.float32]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def kept_mass(self) -> Mapping[CompressionConfig, Distribution]:
        """Budget -> the share on what it keeps, over the images."""
        return {budget: Distribution.of(masses) for budget, masses in self.kept.items()}


def depths_of(tower: TowerAlone, layers: Sequence[int]) -> tuple[int, ...]:
    """Layers from 1, of indices into the hidden states (negative ones from the end), and the one that a LLaVA takes.

    Raises:
        ValueError: There is no such layer, or it is that of the embeddings.
    """
    depths = [selected_depth(layer, tower.num_layers) for layer in [*layers, tower.layer]]
    if 0 in depths:
        raise ValueError(f"layer 0 are the embeddings, before any attention; name a layer of 1..{tower.num_layers}")
    return tuple(sorted(set(depths)))


def budget_ladder(tower: TowerAlone, methods: Sequence[str], totals: Sequence[int]) -> list[CompressionConfig]:
    """Methods at rising budgets; VisionZip's are split into dominant and contextual tokens as in its paper.

    Args:
        tower: That the budgets must fit.
        methods: Names, options behind a comma: `coverage,strength=0`.
        totals: Tokens of a tile; by default shares of the tower's patches.

    Raises:
        ValueError: A method is unknown, reads more than a tower, or cannot have the budget.
    """
    patches = tower.tile_shape.num_patches
    totals = totals or sorted({max(1, round(share * patches)) for share in _LADDER})
    ladder = []
    for named in methods:
        name, comma, options = named.partition(",")
        for total in totals:
            split = CompressionConfig.from_total(total, method=name)
            is_split = name == CompressionConfig.method and split.contextual
            amount = f"{split.dominant}+{split.contextual}" if is_split else total
            budget = CompressionConfig.parse(f"{name}:{amount}{comma}{options}")
            assert budget is not None
            _check(tower, budget)
            ladder.append(budget)
    return list(dict.fromkeys(ladder))


def _check(tower: TowerAlone, budget: CompressionConfig) -> BoundCompressor:
    compressor = compressor_of(budget)
    compressor.check(budget, tower.tile_shape)
    bound = compressor.bind(budget, tower.tile_shape)
    if bound.place != "tower" or not bound.needs <= TOWER_NEEDS or bound.is_uneven:
        raise ValueError(
            f"{budget}: this method reads more than a vision tower gives (a projector, a question, another picture); "
            "methods such as visionzip, random, uniform, fastervlm and vispruner can be measured here"
        )
    return bound


def measure(
    tower: TowerAlone,
    images: Sequence[Path],
    layers: Sequence[int],
    budgets: Sequence[CompressionConfig],
    *,
    batch_size: int,
    show: int,
    folder: Path | None = None,
    name: str = "",
) -> Measured:
    """Reads the attention of a tower over images; shows its progress.

    Args:
        tower: Of `load_tower`.
        images: Files; those that cannot be read are left out and noted.
        layers: From 1, of `depths_of`.
        budgets: Of `budget_ladder`.
        batch_size: Images at a time.
        show: How many pictures are kept for a figure.
        folder: Of `unfinished`: what it has is not measured again, and each batch is put there. None: nowhere.
        name: What the bar is called.

    Raises:
        ValueError: No image can be read.
    """
    bound = {budget: _check(tower, budget) for budget in budgets}
    parts = None if folder is None else Parts(folder, key_of(tower, layers, budgets))
    found = []
    with tqdm(total=len(images), desc=name, unit="image", disable=not name) as bar:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            part = None if parts is None else parts.read(batch)
            if part is None:
                part = _measure(tower, batch, layers, bound)
                if parts is not None:
                    parts.write(batch, part)
            found.append(part)
            bar.update(len(batch))
    unreadable = [problem for part in found for problem in part.unreadable]
    if len(unreadable) == len(images):
        raise ValueError(f"no image could be read: {'; '.join(unreadable[:3]) or 'there is none'}")
    shares = np.concatenate([part.shares for part in found], axis=1)
    kept = np.concatenate([part.kept for part in found], axis=1)
    return Measured(
        tuple(layers),
        selected_depth(tower.layer, tower.num_layers),
        dict(zip(layers, shares, strict=True)),
        dict(zip(budgets, kept, strict=True)),
        _pictures(tower, images, show),
        unreadable,
    )


@torch.inference_mode()
def _measure(
    tower: TowerAlone, images: Sequence[Path], layers: Sequence[int], bound: Mapping[CompressionConfig, BoundCompressor]
) -> Part:
    """What is found of a batch."""
    unreadable: list[str] = []
    opened = list(_opened(tower, images, unreadable))
    if not opened:
        patches = tower.tile_shape.num_patches
        return Part(np.zeros((len(layers), 0, patches), np.float32), np.zeros((len(bound), 0)), unreadable)
    weight = next(tower.module.parameters())
    pixels = torch.stack([tile for tile, _ in opened]).to(weight)
    features = _features(tower, pixels, [size for _, size in opened], bound)
    attention = features.attention_shares.double().cpu()
    selected = selected_depth(tower.layer, tower.num_layers)
    shares = {selected: attention.float().numpy()}
    shares |= _shares(tower, pixels, [layer for layer in layers if layer != selected])
    masks = (_as_they_are(each(features), attention.shape[1]) for each in bound.values())
    kept = [(attention * mask).sum(dim=1).numpy() for mask in masks]
    return Part(
        np.stack([shares[layer] for layer in layers]),
        np.stack(kept) if kept else np.zeros((0, len(opened))),
        unreadable,
    )


def _opened(
    tower: TowerAlone, images: Iterable[Path], unreadable: list[str]
) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """(3, H, W) pixels and the image's size; what cannot be read goes into `unreadable`."""
    for file in images:
        try:
            image = open_image(file, tower.images)
        except UnreadableImageError as error:
            unreadable.append(str(error))
            continue
        pixels: Any = process_images([image], tower.image_processor, tower.images)[0]
        yield pixels[0] if pixels.ndim == 4 else pixels, image.size


def _pictures(tower: TowerAlone, images: Sequence[Path], show: int) -> list[NDArray[np.float32]]:
    """The first few that can be read, as the tower is given them."""
    tiles = islice(_opened(tower, images, []), show)
    return [shown_pixels(tile, tower.image_processor) for tile, _ in tiles]


def _shares(tower: TowerAlone, pixels: Tensor, layers: Sequence[int]) -> dict[int, Shares]:
    """Layer -> (B, P)."""
    if not layers:
        return {}
    found = saliency_of_layers(tower.module, pixels, layers)
    shares = [saliency / saliency.sum(dim=1, keepdim=True) for saliency in found]
    return {layer: share.float().cpu().numpy() for layer, share in zip(layers, shares, strict=True)}


def _features(
    tower: TowerAlone,
    pixels: Tensor,
    sizes: Sequence[tuple[int, int]],
    bound: Mapping[CompressionConfig, BoundCompressor],
) -> VisionFeatures:
    """The selected layer as all methods need it: each tile is an image of its own, and may have a border."""
    saliency: frozenset[Need] = frozenset({"saliency"})
    needs = saliency.union(*(each.needs for each in bound.values()))
    features = extract_features(tower.module, pixels, tower.layer, needs)
    padding = torch.zeros(len(pixels), features.patches.shape[1], dtype=torch.bool)
    if tower.aspect_ratio == "pad":
        padding = torch.stack([padding_patches(size, features.grid, tower.config.image_size) for size in sizes])
    index = torch.arange(len(pixels), device=pixels.device)
    return replace(features, image_index=index, padding=padding.to(pixels.device))


def _as_they_are(tokens: CompressedTokens, patches: int) -> Tensor:
    """(B, P), float64, 1 for patches that are kept and not merged with others, on the CPU."""
    positions, sizes = tokens.positions.cpu(), tokens.sizes.cpu()
    is_whole = (positions >= 0) & (sizes == 1) & (torch.arange(positions.shape[1]) < tokens.num_dominant)
    mask = torch.zeros(len(positions), patches, dtype=torch.float64)
    return mask.scatter_reduce_(1, positions.clamp(min=0), is_whole.double(), "amax")
