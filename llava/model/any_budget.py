"""An image goes through the tower once, and any budget is spent on it afterwards: the model itself is not changed.

Shapes: T tiles of the image, P patches a tile, K tokens, C channels of the tower, D channels of the language model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava.model.configuration import CompressionLike, as_compression
from llava.model.image_encoding import Images, tiles_of
from llava.model.multimodal_compressor import BoundCompressor, CompressedTokens, VisionFeatures, compressor_of
from llava.model.multimodal_compressor.following import following
from llava.model.multimodal_compressor.registry import CLS_NEEDS, Need
from llava.model.multimodal_compressor.types import gather_rows
from llava.model.offloading import like_weights
from llava.model.stages import check_methods, inside_language_model
from llava.model.tile_facts import tile_facts
from llava.model.vision_tokens import VisionTokens

CLS = -1
"""Stands for the CLS token among patches that are picked."""

_OF_THE_TOWER: frozenset[Need] = frozenset({"keys", "saliency", "digest", "image_index", "padding"})


@dataclass(frozen=True)
class ReadImage:
    """One image as the tower has read it.

    Attributes:
        size: (w, h), before padding.
        tokens: All that any method may choose from; one image.
        features: The same as `tokens.features`, which is there.
    """

    size: tuple[int, int]
    tokens: VisionTokens
    features: VisionFeatures

    @property
    def num_tiles(self) -> int:
        """T."""
        return len(self.features.content)


@torch.inference_mode()
def read_image(model: Any, images: Images, size: tuple[int, int]) -> ReadImage:
    """Runs the tower over one image, up to the selected layer, and keeps all that a method may ask for.

    Args:
        model: A LLaVA model.
        images: Pixels of the image, as `encode_each` takes them.
        size: (w, h) of the image, before padding.

    Raises:
        ValueError: There is no image.
    """
    tiles, counts, sizes = tiles_of(images, [size])
    if tiles is None:
        raise ValueError("there is no image to read")
    core = model.model
    needs = _OF_THE_TOWER | (CLS_NEEDS if core.tile_shape.saliency_has_cls else frozenset())
    pixels = like_weights(tiles, core.vision_tower, cast=True)
    counts = core.tile_counts(counts, len(pixels))
    found = core.read_features(pixels, needs)
    facts = tile_facts(core.config, needs, len(found.content), counts, sizes, pixels.device)
    features = VisionFeatures(**{**vars(found), **facts})
    whole = features.content if core.config.vision_feature_select_strategy == "full" else features.patches
    return ReadImage(size, VisionTokens(whole, counts, features=features), features)


def bind(model: Any, compression: CompressionLike) -> BoundCompressor | None:
    """A compressor that can be run behind `read_image`; None for every token.

    Raises:
        ValueError: The method is unknown, acts inside the language model, shrinks the picture before the tower, or
            needs what is not kept; or the budget does not fit the tower.
    """
    budget = as_compression(compression)
    if budget is None:
        return None
    check_methods(budget)
    if inside_language_model(budget) is not None or budget.restores or budget.adaptive is not None:
        raise ValueError(
            f"compression {budget}: only a fixed number of tokens, kept before the language model, goes here"
        )
    compressor = compressor_of(budget)
    compressor.check(budget, model.model.tile_shape)
    bound = compressor.bind(budget, model.model.tile_shape)
    if bound.place == "pixels":
        raise ValueError(f"compression {budget}: {budget.method} shrinks the picture, and so needs the tower anew")
    return bound


def reads_questions(model: Any, bound: BoundCompressor | None) -> bool:
    """Whether what a compressor keeps depends on the question."""
    return bound is not None and bool(model.model.text_needs(bound))


@torch.inference_mode()
def tokens_under(model: Any, image: ReadImage, bound: BoundCompressor | None, question: str = "") -> Tensor:
    """What the language model is given of an image: (its tokens, D).

    Args:
        model: The model that has read it.
        image: Of `read_image`.
        bound: Of `bind`.
        question: For compressors that read it.
    """
    if reads_questions(model, bound):
        model.learn_to_read()
    [tokens] = model.model.project_under(bound, image.tokens, [image.size], [question])
    return tokens  # type: ignore[no-any-return]


@torch.inference_mode()
def kept_under(model: Any, image: ReadImage, bound: BoundCompressor, question: str = "") -> CompressedTokens:
    """What a compressor keeps of each tile, `assignment` included; arguments as for `tokens_under`."""
    if reads_questions(model, bound):
        model.learn_to_read()
    features = model.model.with_questions(image.features, bound, image.tokens.counts, [question])
    kept: CompressedTokens = model.model.compress_features(features, following(bound))
    return kept


@torch.inference_mode()
def picked_tokens(model: Any, image: ReadImage, picks: Sequence[Collection[int]]) -> Tensor:
    """What the language model is given if exactly these patches are kept as they are: (number of picks, D).

    They stand in the order in which a method's dominant tokens stand: CLS first, then raster order; over the tiles of
    a grid the raster order of the whole picture, the tiles' CLS tokens behind all patches. A newline that the model's
    family puts behind a picture follows.

    Args:
        model: The model that has read the image.
        image: Of `read_image`.
        picks: For each tile the patches, 0..P-1 in raster order, and `CLS` for the CLS token.

    Raises:
        ValueError: Nothing is picked, a patch is not there, or a CLS token is picked that the model never sees.
    """
    features = image.features
    check_picks(model, image, picks)
    chosen = [sorted(set(tile)) for tile in picks]
    most = max(map(len, chosen))
    padded = [tile + [0] * (most - len(tile)) for tile in chosen]
    positions = torch.tensor(padded, device=features.content.device)
    tokens = gather_rows(features.content, positions + int(features.has_cls))
    splits = [(len(tile), 0) for tile in chosen]
    kept = VisionTokens(tokens, image.tokens.counts, positions, splits=splits)
    [found] = model.model.project_under(None, kept, [image.size])
    return found  # type: ignore[no-any-return]


def check_picks(model: Any, image: ReadImage, picks: Sequence[Collection[int]]) -> None:
    """Refuses picks that cannot be; raises as `picked_tokens`."""
    shape, patches = model.model.tile_shape, image.features.patches.shape[1]
    if "tower" not in shape.places:
        raise ValueError("tokens of this model cannot be picked by hand: it keeps no rows of the tower")
    if len(picks) != image.num_tiles:
        raise ValueError(f"picks are given for {len(picks)} tiles, and the picture has {image.num_tiles}")
    least = CLS if shape.keep_cls and image.features.has_cls else 0
    for number, tile in enumerate(picks):
        wrong = [place for place in tile if not least <= place < patches]
        if wrong:
            raise ValueError(f"tile {number} has patches 0 to {patches - 1}, and patch {wrong[0]} is picked")
    if not any(picks):
        raise ValueError("no patch is picked: pick one at least")
