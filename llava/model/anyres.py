"""LLaVA-NeXT: the tiles of an image become one sequence, whose length is known beforehand.

Shapes: T tiles of an image (the base tile first, then the grid row by row), P = h * w patches a tile, K kept tokens a
tile, D channels after the projector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from llava.images.processing import aspect_ratio_of, grid_pinpoints, select_best_resolution, unpadded_shape
from llava.images.rules import most_tiles
from llava.kinds.families import family_of

MergeType = Literal["flat", "spatial", "spatial_unpad"]
Rule = Literal["llava", "transformers"]
MERGE_TYPES = ("flat", "spatial", "spatial_unpad")
RULES = ("llava", "transformers")
_SHRINKS_FROM = 1.1  # times as long and wide as the bound, LLaVA-NeXT's threshold


@dataclass(frozen=True)
class TileLayout:
    """How the tiles of an image are laid out and read.

    Attributes:
        merge_type: LLaVA's `mm_patch_merge_type`. `flat` reads tile after tile; the others read the grid's rows as
            one canvas, `spatial_unpad` without the padding and with a newline after each row.
        rule: Whose rounding the unpadding follows: LLaVA's for LLaVA-format checkpoints, transformers' for llava-hf.
        pinpoints: (w, h) of the grids an image may be resized to; empty if images are single tiles.
        tile_size: Pixels of a tile's side.
        patches_per_side: h = w of a tile.
        most_tiles: With `spatial_unpad`, an unpadded canvas of clearly more patches than this many tiles have is shrunk
            to about as many; None for no bound. LLaVA-OneVision's `anyres_max_N`.
        own_tiles: Tiles that the model itself makes of a picture, without pinpoints: n * n of a square grid, and a view
            of the whole before them if it is one more.
    """

    merge_type: MergeType
    rule: Rule
    pinpoints: tuple[tuple[int, int], ...]
    tile_size: int
    patches_per_side: int
    most_tiles: int | None = None
    own_tiles: int = 1

    @classmethod
    def from_config(cls, config: Any) -> TileLayout:
        """Reads a `LlavaConfig` or `LlavaNextConfig`, whose pinpoints are (h, w) as in transformers.

        Raises:
            ValueError: An entry has an unknown value.
        """
        family = family_of(config)
        merge_type: Any = getattr(config, "mm_patch_merge_type", None) or family.merge_type
        rule: Any = getattr(config, "anyres_rule", None) or "transformers"
        if merge_type not in MERGE_TYPES:
            raise ValueError(f"mm_patch_merge_type {merge_type!r} is none of {', '.join(MERGE_TYPES)}")
        if rule not in RULES:
            raise ValueError(f"anyres_rule {rule!r} is none of {', '.join(RULES)}")
        pinpoints = tuple(grid_pinpoints(config)) if family.is_tiled else ()
        vision = config.vision_config
        bound = most_tiles(aspect_ratio_of(config)) if pinpoints else None
        own = 1 if pinpoints else family.picture(config).tiles
        return cls(merge_type, rule, pinpoints, vision.image_size, vision.image_size // vision.patch_size, bound, own)

    @property
    def has_tiles(self) -> bool:
        """Whether an image may be of several tiles."""
        return bool(self.pinpoints) or self.own_tiles > 1

    def grid_shape(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of the tiles that an image of (w, h) pixels is cut into, a view of the whole apart."""
        if not self.pinpoints:
            across = math.isqrt(self.own_tiles)
            return across, across
        width, height = select_best_resolution(image_size, list(self.pinpoints))
        return height // self.tile_size, width // self.tile_size

    def num_tiles(self, image_size: tuple[int, int]) -> int:
        """Tiles of an image of (w, h) pixels, the base tile included."""
        if not self.pinpoints:
            return self.own_tiles
        rows, columns = self.grid_shape(image_size)
        return 1 + rows * columns

    def num_tokens(self, num_tiles: int, image_size: tuple[int, int] | None, kept: int | None) -> int:
        """Length of an image's sequence.

        Args:
            num_tiles: T.
            image_size: (w, h); needed for several tiles unless `flat`.
            kept: K of the compressor, None without one.
        """
        per_tile = self.patches_per_side**2 if kept is None else kept
        if self.merge_type == "flat":
            return num_tiles * per_tile
        if num_tiles == 1:
            return per_tile + int(self.merge_type == "spatial_unpad")
        if kept is not None or self.merge_type == "spatial":
            return num_tiles * per_tile
        rows, columns = self._canvas(image_size, num_tiles)
        rows, columns = self._shrunk(*unpadded_shape(rows, columns, _known(image_size), self.rule))
        return per_tile + rows * (columns + 1)

    def _shrunk(self, rows: int, columns: int) -> tuple[int, int]:
        """(rows, columns) that are left of an unpadded canvas of so many."""
        if self.most_tiles is None:
            return rows, columns
        ratio = math.sqrt(rows * columns / (self.most_tiles * self.patches_per_side**2))
        return (int(rows // ratio), int(columns // ratio)) if ratio > _SHRINKS_FROM else (rows, columns)

    def _canvas(self, image_size: tuple[int, int] | None, num_tiles: int) -> tuple[int, int]:
        """(rows, columns) of patches of the whole grid.

        Raises:
            ValueError: The size is not given, or its grid does not have these tiles.
        """
        rows, columns = self.grid_shape(_known(image_size))
        if rows * columns + 1 != num_tiles:
            raise ValueError(
                f"an image of {image_size} pixels (w, h) has a {rows} x {columns} grid and a base tile, but "
                f"{num_tiles} tiles were given; image_sizes must be (w, h) with images=, (h, w) with pixel_values="
            )
        return rows * self.patches_per_side, columns * self.patches_per_side

    def pack(self, tiles: Tensor, image_size: tuple[int, int] | None, newline: Tensor | None) -> Tensor:
        """Puts the uncompressed tiles of an image in sequence.

        Args:
            tiles: (T, P, D).
            image_size: (w, h).
            newline: (D,), LLaVA-NeXT's `image_newline`.

        Returns:
            (`num_tokens`, D).
        """
        if self.merge_type == "flat":
            return tiles.flatten(0, 1)
        if len(tiles) == 1:
            return self._end_single_tile(tiles[0], newline)
        side = self.patches_per_side
        rows, columns = self._canvas(image_size, len(tiles))
        canvas = tiles[1:].unflatten(1, (side, side)).unflatten(0, (rows // side, columns // side))
        canvas = canvas.transpose(1, 2).reshape(rows, columns, -1)
        if self.merge_type == "spatial_unpad":
            new_rows, new_columns = unpadded_shape(rows, columns, _known(image_size), self.rule)
            top, left = (rows - new_rows) // 2, (columns - new_columns) // 2
            canvas = canvas[top : top + new_rows, left : left + new_columns]
            new_rows, new_columns = self._shrunk(new_rows, new_columns)
            if (new_rows, new_columns) != canvas.shape[:2]:
                planes = canvas.permute(2, 0, 1).unsqueeze(0)
                canvas = interpolate(planes, (new_rows, new_columns), mode="bilinear")[0].permute(1, 2, 0)
            assert newline is not None
            canvas = torch.cat([canvas, newline.to(canvas).expand(new_rows, 1, -1)], dim=1)
        return torch.cat([tiles[0], canvas.flatten(0, 1)])

    def pack_compressed(
        self,
        tiles: Tensor,
        positions: Tensor,
        num_dominant: int,
        image_size: tuple[int, int] | None,
        newline: Tensor | None,
    ) -> Tensor:
        """Puts the compressed tiles of an image in VisionZip's order.

        The base tile; then of the grid the kept patches in raster order of the whole canvas, the tiles' CLS tokens, and
        the tiles' contextual tokens. Nothing is unpadded and no newline inserted.

        Args:
            tiles: (T, K, D).
            positions: (T, K), -1 for CLS, else the patch's index in its tile.
            num_dominant: How many of the K are dominant, CLS included.
            image_size: (w, h).
            newline: (D,).

        Returns:
            (`num_tokens`, D).
        """
        if self.merge_type == "flat":
            return tiles.flatten(0, 1)
        if len(tiles) == 1:
            return self._end_single_tile(tiles[0], newline)
        grid, raster = tiles[1:], self._raster(positions[1:, :num_dominant], image_size)
        dominant = grid[:, :num_dominant].flatten(0, 1)[raster.flatten().argsort()]
        return torch.cat([tiles[0], dominant, grid[:, num_dominant:].flatten(0, 1)])

    def _raster(self, positions: Tensor, image_size: tuple[int, int] | None) -> Tensor:
        """Where patches of the grid's tiles (T - 1, K) stand on the whole canvas; CLS tokens follow all patches."""
        num_tiles, side = len(positions), self.patches_per_side
        _, columns = self._canvas(image_size, num_tiles + 1)
        tile = torch.arange(num_tiles, device=positions.device).unsqueeze(1)
        tile_row, tile_column = tile // (columns // side), tile % (columns // side)
        raster = (tile_row * side + positions // side) * columns + tile_column * side + positions % side
        return torch.where(positions < 0, side * side * num_tiles + tile, raster)

    def pack_uneven(
        self,
        tiles: Tensor,
        positions: Tensor,
        splits: Sequence[tuple[int, int]],
        image_size: tuple[int, int] | None,
        newline: Tensor | None,
    ) -> Tensor:
        """`pack_compressed` of tiles that keep different numbers of tokens.

        Args:
            tiles: (T, K, D), a tile's own tokens first.
            positions: (T, K).
            splits: How many dominant and contextual tokens each tile has.
            image_size: (w, h).
            newline: (D,).

        Returns:
            (`num_tokens`, D).
        """
        own = [rows[: dominant + contextual] for rows, (dominant, contextual) in zip(tiles, splits, strict=True)]
        if self.merge_type == "flat":
            return torch.cat(own)
        if len(tiles) == 1:
            return self._end_single_tile(own[0], newline)
        raster = self._raster(positions[1:], image_size)
        dominant = [count for count, _ in splits[1:]]
        order = torch.cat([row[:count] for row, count in zip(raster, dominant, strict=True)]).argsort()
        kept = torch.cat([rows[:count] for rows, count in zip(own[1:], dominant, strict=True)])[order]
        return torch.cat([own[0], kept, *(rows[count:] for rows, count in zip(own[1:], dominant, strict=True))])

    def shown_patches(self, num_tiles: int, image_size: tuple[int, int] | None) -> list[int]:
        """How many patches of each tile show the picture and not what pads it: the base tile, then the grid's."""
        whole = self.patches_per_side**2
        if num_tiles == 1:
            return [whole]
        side = self.patches_per_side
        if self.own_tiles > 1:
            return self._shown_of_own(_known(image_size))
        rows, columns = self._canvas(image_size, num_tiles)
        shown_rows, shown_columns = unpadded_shape(rows, columns, _known(image_size), self.rule)
        top, left = (rows - shown_rows) // 2, (columns - shown_columns) // 2

        return [whole, *_overlaps((rows, columns), (top, left, shown_rows, shown_columns), side)]

    def _shown_of_own(self, image_size: tuple[int, int]) -> list[int]:
        """The same of a picture that was padded to a square before the model makes its tiles."""
        side, (across, _) = self.patches_per_side, self.grid_shape(image_size)
        extent = across * side
        rows, columns = unpadded_shape(extent, extent, image_size, self.rule)
        shown = (extent - rows) // 2, (extent - columns) // 2, rows, columns
        whole = math.prod(unpadded_shape(side, side, image_size, self.rule))
        return [whole] * (self.own_tiles - across**2) + _overlaps((extent, extent), shown, side)

    def _end_single_tile(self, tile: Tensor, newline: Tensor | None) -> Tensor:
        """A lone tile is followed by one newline, if rows are."""
        if self.merge_type == "spatial_unpad":
            assert newline is not None
            return torch.cat([tile, newline.to(tile).unsqueeze(0)])
        return tile


def _overlaps(canvas: tuple[int, int], shown: tuple[int, int, int, int], side: int) -> list[int]:
    """Patches that each tile of a canvas shares with a part of it.

    Args:
        canvas: Its rows and columns of patches.
        shown: Top, left, rows and columns of the part.
        side: Of a tile.
    """
    top, left, rows, columns = shown

    def overlap(first: int, start: int, length: int) -> int:
        return max(0, min(first + side, start + length) - max(first, start))

    return [
        overlap(row, top, rows) * overlap(column, left, columns)
        for row in range(0, canvas[0], side)
        for column in range(0, canvas[1], side)
    ]


def _known(image_size: tuple[int, int] | None) -> tuple[int, int]:
    """The size, which an image of several tiles must come with."""
    if image_size is None:
        raise ValueError("image_sizes must be given for images of several tiles: the (w, h) of each, before padding")
    return image_size


def size_pairs(
    image_sizes: Sequence[Sequence[int]] | Tensor | None, *, height_first: bool
) -> list[tuple[int, int]] | None:
    """Image sizes as (w, h) pairs of ints, from (w, h) or, with `height_first`, from transformers' (h, w)."""
    if image_sizes is None:
        return None
    pairs = image_sizes.tolist() if isinstance(image_sizes, Tensor) else image_sizes
    return [(int(b), int(a)) if height_first else (int(a), int(b)) for a, b in pairs]
