"""Crowded scenes: four to ten things of two sizes among distractors, before a texture.

A picture has 14 x 14 patches in 4 x 4 cells; a cell holds at most one thing. Things begin at a patch's corner, a pixel
more or less.

Shape legend: B scenes, O = 10 slots for things, C = 16 cells, G = 24 pixels, S = 112 pixels of the picture's side.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from playground.crowded.backgrounds import SIZE, TEXTURES, backgrounds
from playground.crowded.things import ALL_NAMES, FOOTPRINT, KIND_OF, KINDS, PATCH, SIDE, SIZES, Bank, Split

GRID = SIZE // PATCH
SLOTS = 10
CELL_START = np.array([0, 3, 7, 10])
CELL_SPAN = np.array([3, 4, 3, 4])
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (240, 70, 60),
    "green": (70, 220, 90),
    "blue": (90, 135, 255),
    "yellow": (250, 230, 70),
    "purple": (215, 95, 240),
    "white": (245, 245, 245),
}
COLOUR_NAMES = tuple(COLOURS)
QUADRANTS = ("northwest", "northeast", "southwest", "southeast")
_PALETTE = np.array(list(COLOURS.values()), np.float32)


@dataclass(frozen=True)
class SceneBatch:
    """B scenes; a slot without a thing has name -1.

    Attributes:
        names: (B, O) an index into ALL_NAMES, each at most once a scene.
        sizes: (B, O) an index into SIZES.
        colours: (B, O) an index into COLOUR_NAMES.
        cells: (B, O) the cell, row by row.
        rows: (B, O) the patch row of the thing's upper edge.
        cols: (B, O) the patch column of its left edge.
        instances: (B, O) an index into the bank's ink.
        textures: (B,) an index into the world's textures.
    """

    names: np.ndarray
    sizes: np.ndarray
    colours: np.ndarray
    cells: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    instances: np.ndarray
    textures: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, part: slice) -> SceneBatch:
        return SceneBatch(*(getattr(self, field.name)[part] for field in fields(self)))


def sample_scenes(
    rng: np.random.Generator, bank: Bank, world: str, count: int, low: int = 4, high: int = SLOTS
) -> SceneBatch:
    """Draws scenes: how many things, which, where, of what size and colour, before what.

    Args:
        rng: The source of chance.
        bank: The instances to draw from.
        world: A key of TEXTURES.
        count: The number of scenes B.
        low: The fewest things a scene.
        high: The most.
    """
    share = 1 / np.bincount(KIND_OF)[KIND_OF]  # kinds are equally frequent, however many names they have
    names = np.argsort(np.log(share) - np.log(-np.log(rng.random((count, len(ALL_NAMES))))), axis=1)[:, ::-1][:, :SLOTS]
    there = np.arange(SLOTS) < rng.integers(low, high + 1, (count, 1))
    cells = np.argsort(rng.random((count, 16)), axis=1)[:, :SLOTS]
    sizes = rng.integers(0, len(SIZES), (count, SLOTS))
    room = FOOTPRINT[names, sizes]
    down, right = cells // 4, cells % 4
    rows = CELL_START[down] + (rng.random((count, SLOTS)) * (CELL_SPAN[down] - room[..., 0] + 1)).astype(np.int64)
    cols = CELL_START[right] + (rng.random((count, SLOTS)) * (CELL_SPAN[right] - room[..., 1] + 1)).astype(np.int64)
    chosen = (rng.random((count, SLOTS)) * bank.count[names, sizes]).astype(np.int64)
    return SceneBatch(
        np.where(there, names, -1),
        sizes,
        rng.integers(0, len(COLOURS), (count, SLOTS)),
        cells,
        rows,
        cols,
        bank.first[names, sizes] + chosen,
        rng.integers(0, len(TEXTURES[world]), count),
    )


def render(rng: np.random.Generator, scenes: SceneBatch, bank: Bank, world: str, split: Split) -> np.ndarray:
    """Paints scenes.

    Args:
        rng: The source of chance for what is not in `scenes`: textures, distractors, shades.
        scenes: B scenes.
        bank: The instances that they were drawn from.
        world: A key of TEXTURES.
        split: Of the photographs.

    Returns:
        (B, S, S, 3) pixels, uint8.
    """
    count = len(scenes)
    canvas = np.zeros((count, SIZE + SIDE + 2, SIZE + SIDE + 2, 3), np.float32)
    canvas[:, 1 : SIZE + 1, 1 : SIZE + 1] = backgrounds(rng, world, scenes.textures, split)
    taken = np.zeros((count, 16), bool)
    present = scenes.names >= 0
    np.put_along_axis(taken, np.where(present, scenes.cells, scenes.cells[:, :1]), True, axis=1)
    for cell in range(16):
        free = np.flatnonzero(~taken[:, cell] & (rng.random(count) < 0.6))
        ink = bank.distractors[rng.integers(0, len(bank.distractors), len(free))]
        shade = rng.uniform(90, 220, (len(free), 1)) + rng.uniform(-40, 40, (len(free), 3))
        corner = [
            PATCH * (CELL_START[at] + rng.integers(0, CELL_SPAN[at] - 1, len(free))) for at in (cell // 4, cell % 4)
        ]
        _stamp(rng, canvas, free, corner[0], corner[1], ink, shade)
    for slot in range(SLOTS):
        at = np.flatnonzero(present[:, slot])
        shade = _PALETTE[scenes.colours[at, slot]] * rng.uniform(0.85, 1.0, (len(at), 1))
        ink = bank.ink[scenes.instances[at, slot]]
        _stamp(rng, canvas, at, PATCH * scenes.rows[at, slot], PATCH * scenes.cols[at, slot], ink, shade)
    return np.clip(np.rint(canvas[:, 1 : SIZE + 1, 1 : SIZE + 1]), 0, 255).astype(np.uint8)


def _stamp(
    rng: np.random.Generator,
    canvas: np.ndarray,
    which: np.ndarray,
    rows: np.ndarray,
    cols: np.ndarray,
    ink: np.ndarray,
    shade: np.ndarray,
) -> None:
    """Paints one thing into each of some pictures, up to a pixel off its corner."""
    steps = np.arange(SIDE)
    down, right = rng.integers(0, 3, (2, len(which)))
    at = (
        which[:, None, None],
        (rows + down)[:, None, None] + steps[:, None],
        (cols + right)[:, None, None] + steps,
    )
    cover = ink[..., None]
    canvas[at] = canvas[at] * (1 - cover) + shade[:, None, None] * cover


def patch_targets(scenes: SceneBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Says what every patch shows.

    Args:
        scenes: B scenes.

    Returns:
        Three (B, 196) arrays in raster order: the thing's name (42 for background), its colour (6 for background) and
        its size (2 for background).
    """
    count = len(scenes)
    found = [np.full((count, GRID, GRID), nothing, np.int64) for nothing in (len(ALL_NAMES), len(COLOURS), len(SIZES))]
    room = FOOTPRINT[scenes.names, scenes.sizes]
    for slot in range(SLOTS):
        for down in range(3):
            for right in range(3):
                covers = (scenes.names[:, slot] >= 0) & (room[:, slot, 0] > down) & (room[:, slot, 1] > right)
                there = np.flatnonzero(covers)
                row, col = scenes.rows[there, slot] + down, scenes.cols[there, slot] + right
                for target, value in zip(found, (scenes.names, scenes.colours, scenes.sizes), strict=True):
                    target[there, row, col] = value[there, slot]
    return found[0].reshape(count, -1), found[1].reshape(count, -1), found[2].reshape(count, -1)


def kind_name(name: int) -> str:
    """The kind of a name, in words."""
    return KINDS[KIND_OF[name]]
