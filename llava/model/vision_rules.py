"""What is known of a model's images before one is encoded: the compressor, and tiles and tokens in number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from llava.kinds.families import Picture, family_of
from llava.model.configuration import CompressionConfig, as_compression
from llava.model.multimodal_compressor import BoundCompressor, TileShape, compressor_of
from llava.model.multimodal_encoder import tower_has_cls
from llava.model.question_seam import QuestionSeam
from llava.model.stages import before_language_model
from llava.model.tile_shapes import tile_shape


class VisionRules(QuestionSeam):
    """Mixed into `VisionSeam`."""

    config: Any
    vision_tower: nn.Module
    multi_modal_projector: nn.Module

    @property
    def compression(self) -> CompressionConfig | None:
        """The compression in `config.compression`, None without one."""
        return as_compression(getattr(self.config, "compression", None))

    @property
    def bound_compressor(self) -> BoundCompressor | None:
        """The compressor before the language model, with its budget; None without one."""
        budget = before_language_model(self.compression)
        return None if budget is None else compressor_of(budget).bind(budget, self.tile_shape)

    @property
    def _has_one_graph(self) -> bool:
        """Whether shapes follow from the number of tiles alone, and embeddings and positions are all that is wanted."""
        bound = self.bound_compressor
        if bound is None:
            return True
        is_even = bound.budget.tiles == "equal" and not bound.is_uneven
        return is_even and not (self.text_needs(bound) or bound.budget.restores)

    @property
    def vision_parts(self) -> dict[str, nn.Module]:
        """The modules that make the projector's input of pixels, by what messages call them."""
        return {"vision tower": self.vision_tower}

    @property
    def picture(self) -> Picture:
        """What an image that is cut into no grid is to the model."""
        return family_of(self.config).picture(self.config)

    @property
    def most_pictures(self) -> int | None:
        """Pictures that a compiled graph takes at most, by the memory that they need; None for no such bound."""
        return None

    def tile_counts(self, counts: Sequence[int] | None, num_pictures: int) -> Sequence[int] | None:
        """Tiles of each image, where the model itself may make several of a picture; arguments as for `encode`."""
        tiles = self.picture.tiles
        return counts if tiles == 1 else [tiles * count for count in counts or [1] * num_pictures]

    @property
    def num_patches(self) -> int:
        """Patches of a tile."""
        return self.tile_shape.num_patches

    @property
    def tile_shape(self) -> TileShape:
        """The shape of a tile, known before it is encoded."""
        return tile_shape(self.config)

    @property
    def tokens_per_tile(self) -> int:
        """Tokens that the tower, or the compressor behind it, gives for a tile."""
        budget = before_language_model(self.compression)
        if budget is not None:
            return compressor_of(budget).num_tokens(budget, self.tile_shape)
        is_full = self.config.vision_feature_select_strategy == "full"
        return self.num_patches + int(is_full and tower_has_cls(self.config.vision_config))
