"""Scenes of real handwritten digits: where they stand, what colour they have, and how they look.

A scene is a dark, slightly textured square of 14 x 14 patches. It holds one to four digits of scikit-learn's
collection, at most one a quadrant, each of another value. A digit covers exactly 2 x 2 patches, so four of them
cover 8 % of the picture.

Shape legend: B scenes, Q = 4 quadrants, G = 16 pixels of a digit's side, S = 112 pixels of the scene's side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PATCH = 8
GRID = 14
SIZE = PATCH * GRID
GLYPH = 2 * PATCH
HALF = GRID // 2
QUADRANTS = ("northwest", "northeast", "southwest", "southeast")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (235, 60, 50),
    "green": (60, 210, 80),
    "blue": (80, 120, 255),
    "yellow": (245, 225, 60),
    "purple": (200, 80, 230),
    "white": (240, 240, 240),
}
COLOUR_NAMES = tuple(COLOURS)
HELD_OUT_FROM = 1437
"""The digits from this index on (the last fifth) are held out: no training step ever sees them."""


@dataclass(frozen=True)
class DigitBlock:
    """A contiguous block of scikit-learn's digits.

    Attributes:
        images: (N, 8, 8) ink between 0 and 1.
        labels: (N,) the digit's value.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class SceneBatch:
    """B scenes, one column a quadrant; an empty quadrant has label -1.

    Attributes:
        labels: (B, Q) the digit's value or -1.
        sources: (B, Q) the digit's index in its block.
        colours: (B, Q) an index into COLOUR_NAMES.
        rows: (B, Q) the patch row of the digit's upper edge, 0..12.
        cols: (B, Q) the patch column of the digit's left edge, 0..12.
    """

    labels: np.ndarray
    sources: np.ndarray
    colours: np.ndarray
    rows: np.ndarray
    cols: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice) -> SceneBatch:
        return SceneBatch(self.labels[part], self.sources[part], self.colours[part], self.rows[part], self.cols[part])


def load_block(held_out: bool) -> DigitBlock:
    """Loads the training block or the held-out block of scikit-learn's digits.

    Args:
        held_out: Whether to give the block that no training step sees.

    Returns:
        The block, ink scaled to 0..1.
    """
    from sklearn.datasets import load_digits  # seconds that `--help` can do without

    digits = load_digits()
    part = slice(HELD_OUT_FROM, None) if held_out else slice(0, HELD_OUT_FROM)
    return DigitBlock(digits.images[part].astype(np.float32) / 16.0, digits.target[part].astype(np.int64))


def sample_scenes(rng: np.random.Generator, block: DigitBlock, count: int, low: int = 1, high: int = 4) -> SceneBatch:
    """Draws scenes: how many digits, which, where, and of what colour.

    Args:
        rng: The source of chance.
        block: The digits to draw from.
        count: The number of scenes B.
        low: The fewest digits a scene.
        high: The most digits a scene.

    Returns:
        B scenes whose digits all differ in value within a scene.
    """
    quads = len(QUADRANTS)
    labels = np.argsort(rng.random((count, 10)), axis=1)[:, :quads]
    order = np.argsort(np.argsort(rng.random((count, quads)), axis=1), axis=1)
    labels = np.where(order < rng.integers(low, high + 1, (count, 1)), labels, -1)
    members = [np.flatnonzero(block.labels == value) for value in range(10)]
    table = np.zeros((10, max(map(len, members))), np.int64)
    for value, found in enumerate(members):
        table[value, : len(found)] = found
    sizes = np.array([len(found) for found in members])
    chosen = np.maximum(labels, 0)
    sources = table[chosen, (rng.random((count, quads)) * sizes[chosen]).astype(np.int64)]
    rows = rng.integers(0, HALF - 1, (count, quads)) + HALF * (np.arange(quads) // 2)
    cols = rng.integers(0, HALF - 1, (count, quads)) + HALF * (np.arange(quads) % 2)
    return SceneBatch(labels, sources, rng.integers(0, len(COLOURS), (count, quads)), rows, cols)


def stretch(old: int, new: int) -> np.ndarray:
    """Gives the matrix (new, old) of linear interpolation from `old` samples to `new` ones, pixel centres aligned."""
    where = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    left = np.minimum(where.astype(np.int64), old - 2)
    matrix = np.zeros((new, old), np.float32)
    matrix[np.arange(new), left] = 1 - (where - left)
    matrix[np.arange(new), left + 1] = where - left
    return matrix


def enlarge(images: np.ndarray) -> np.ndarray:
    """Enlarges digits from (..., 8, 8) to (..., G, G) and strengthens their ink a little."""
    matrix = stretch(images.shape[-1], GLYPH)
    return np.clip(1.25 * (matrix @ images @ matrix.T), 0, 1)


def background(rng: np.random.Generator, count: int) -> np.ndarray:
    """Makes (B, S, S, 1) dark backgrounds: one level a scene, slow waves, fine grain."""
    matrix = stretch(GRID // 2, SIZE)
    level = rng.uniform(18, 46, (count, 1, 1)).astype(np.float32)
    waves = matrix @ rng.uniform(-12, 12, (count, GRID // 2, GRID // 2)).astype(np.float32) @ matrix.T
    grain = rng.integers(-2, 3, (count, SIZE, SIZE)).astype(np.float32)
    return (level + waves + grain)[..., None]


def render(rng: np.random.Generator, scenes: SceneBatch, glyphs: np.ndarray) -> np.ndarray:
    """Paints scenes.

    Args:
        rng: The source of chance for backgrounds.
        scenes: B scenes.
        glyphs: (B, Q, G, G) ink of each quadrant's digit.

    Returns:
        (B, S, S, 3) pixels, uint8.
    """
    count = len(scenes)
    canvas = np.broadcast_to(background(rng, count), (count, SIZE, SIZE, 3)).copy()
    palette = np.array(list(COLOURS.values()), np.float32)
    steps = np.arange(GLYPH)
    for quadrant in range(len(QUADRANTS)):
        there = np.flatnonzero(scenes.labels[:, quadrant] >= 0)
        at = (
            there[:, None, None],
            (scenes.rows[there, quadrant] * PATCH)[:, None, None] + steps[:, None],
            (scenes.cols[there, quadrant] * PATCH)[:, None, None] + steps,
        )
        ink = glyphs[there, quadrant][..., None]
        colour = palette[scenes.colours[there, quadrant]][:, None, None]
        canvas[at] = canvas[at] * (1 - ink) + colour * ink
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def patch_targets(scenes: SceneBatch) -> tuple[np.ndarray, np.ndarray]:
    """Says what every patch shows.

    Args:
        scenes: B scenes.

    Returns:
        Two (B, 196) arrays in raster order: the digit's value (10 for background), the colour's index (6 for
        background).
    """
    count = len(scenes)
    digit = np.full((count, GRID, GRID), 10, np.int64)
    colour = np.full((count, GRID, GRID), len(COLOURS), np.int64)
    for quadrant in range(len(QUADRANTS)):
        there = np.flatnonzero(scenes.labels[:, quadrant] >= 0)
        for step in range(4):
            row, col = scenes.rows[there, quadrant] + step // 2, scenes.cols[there, quadrant] + step % 2
            digit[there, row, col] = scenes.labels[there, quadrant]
            colour[there, row, col] = scenes.colours[there, quadrant]
    return digit.reshape(count, -1), colour.reshape(count, -1)
