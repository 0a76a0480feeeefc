"""What a config says of images: how one is cut into tiles, and how many visual tokens it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from llava.entry_types import wrong_entry
from llava.images.processing import aspect_ratio_of
from llava.images.rules import cuts_tiles
from llava.kinds.families import FAMILIES
from llava.model.anyres import TileLayout
from llava.model.configuration import CompressionConfig
from llava.model.language_pruning.fit import check_pruner
from llava.model.multimodal_compressor import TileShape, compressor_of
from llava.model.multimodal_encoder import tower_has_cls
from llava.model.restore.refusals import check_restore
from llava.model.stages import before_language_model, check_methods, inside_language_model, pruner_of
from llava.model.tile_shapes import shape_of


@dataclass(frozen=True)
class ImageRules:
    """The part of a model's config that whoever prepares its inputs must know; it can be kept as JSON.

    Attributes:
        aspect_ratio: `pad`, `anyres`, `anyres_max_N`, `square` or None, which leaves it to the image processor.
        layout: How tiles become one sequence.
        has_cls: Whether the tower has a CLS token.
        drops_cls: Whether it is dropped where nothing is compressed.
        family: The family of the model, by its `model_type`.
    """

    aspect_ratio: str | None
    layout: TileLayout
    has_cls: bool
    drops_cls: bool
    family: str

    @classmethod
    def from_config(cls, config: Any) -> ImageRules:
        """Reads a `LlavaConfig` or `LlavaNextConfig`.

        Raises:
            ValueError: An entry has an unknown value.
        """
        has_cls = tower_has_cls(config.vision_config)
        drops_cls = has_cls and config.vision_feature_select_strategy != "full"
        return cls(aspect_ratio_of(config), TileLayout.from_config(config), has_cls, drops_cls, config.model_type)

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> ImageRules:
        """Reads what `to_dict` gave.

        Raises:
            ValueError: An entry is missing, unknown or malformed.
        """
        problem = wrong_entry("image_rules", entries)
        if problem is not None:
            raise ValueError(f"image_rules: {problem}")
        try:
            parts = dict(entries)
            layout = dict(parts.pop("layout"))
            layout["pinpoints"] = tuple((int(width), int(height)) for width, height in layout["pinpoints"])
            if "is_next" in parts:  # written before 0.2
                parts["family"] = "llava_next" if parts.pop("is_next") else "llava"
            FAMILIES.get(parts["family"])  # refuses an unknown one
            return cls(layout=TileLayout(**layout), **parts)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"image_rules {entries!r} is not what `save_pretrained` writes: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The rules as JSON has them; pinpoints are (w, h)."""
        entries = asdict(self)
        entries["layout"]["pinpoints"] = [list(size) for size in self.layout.pinpoints]
        return entries

    @property
    def is_tiled(self) -> bool:
        """Whether images are cut into tiles."""
        return FAMILIES.get(self.family).is_tiled and cuts_tiles(self.aspect_ratio)

    @property
    def has_several_tiles(self) -> bool:
        """Whether an image may be several tiles, be they cut beforehand or made by the model itself."""
        return self.is_tiled or self.layout.own_tiles > 1

    @property
    def num_patches(self) -> int:
        """Patches of a tile."""
        return self.layout.patches_per_side**2

    @property
    def tile_shape(self) -> TileShape:
        """What a compressor is told of a tile beforehand."""
        side = self.layout.patches_per_side
        return shape_of(FAMILIES.get(self.family), (side, side), self.has_cls)

    @property
    def tokens_of_whole_tile(self) -> int:
        """Visual tokens of a tile without compression."""
        return self.num_patches + int(self.has_cls and not self.drops_cls)

    def num_tokens(
        self, image_size: tuple[int, int], compression: CompressionConfig | None, *, beside_others: bool = False
    ) -> int:
        """Rows that an image takes in the sequence.

        Args:
            image_size: (w, h), before padding.
            compression: None without one.
            beside_others: Whether it stands in one prompt with other images.
        """
        before = before_language_model(compression)
        kept = None if before is None else compressor_of(before).num_tokens(before, self.tile_shape)
        if not self.is_tiled:
            return self.layout.own_tiles * (self.tokens_of_whole_tile if kept is None else kept)
        return self.layout.num_tokens(self.num_tiles(image_size, beside_others=beside_others), image_size, kept)

    def num_tiles(self, image_size: tuple[int, int], *, beside_others: bool = False) -> int:
        """Tiles that an image is cut into, the base tile included.

        Args:
            image_size: (w, h), before padding.
            beside_others: Whether it stands in one prompt with other images.
        """
        if not self.is_tiled:
            return self.layout.own_tiles
        is_one_tile = beside_others and not FAMILIES.get(self.family).tiles_several
        return 1 if is_one_tile else self.layout.num_tiles(image_size)

    def most_rows(self, compression: CompressionConfig | None) -> int:
        """Rows of the image that takes the most in the sequence.

        Args:
            compression: None without one.
        """
        sizes = self.layout.pinpoints if self.is_tiled else ((self.layout.tile_size, self.layout.tile_size),)
        return max(self.num_tokens(size, compression) for size in sizes)

    def check(self, compression: CompressionConfig | None, text_config: Any = None) -> None:
        """Refuses a compression that the model cannot have.

        Args:
            compression: None without one.
            text_config: Of the language model; None where only its form is known to matter, as to a processor.

        Raises:
            ValueError: A method is unknown, or a budget does not fit the tower or the language model.
        """
        if compression is not None:
            check_methods(compression)
            if compression.restores:
                check_restore(compression, text_config, is_tiled=self.layout.has_tiles)
        before, inside = before_language_model(compression), inside_language_model(compression)
        if before is not None:
            width = None if text_config is None else text_config.hidden_size
            compressor_of(before).check(before, replace(self.tile_shape, projected_width=width))
        if inside is None:
            return
        pruner = pruner_of(inside)
        pruner.check_form(inside)
        if text_config is not None:
            check_pruner(pruner, inside, text_config, self.most_rows(compression))
