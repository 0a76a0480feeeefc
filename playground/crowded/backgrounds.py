"""Textured backgrounds: patterns of chance and crops of the photographs that scikit-learn ships.

Shape legend: B pictures, S = 112 pixels of a picture's side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from playground.crowded.things import Split

SIZE = 112
TEXTURES: dict[str, tuple[str, ...]] = {
    "first": ("stripes", "checks", "waves", "grain", "photo"),
    "second": ("dots", "bricks", "rings", "clouds", "photo"),
}
"""The textures of either world; they have none in common, and the photographs differ."""
_PHOTOS = {"first": "china.jpg", "second": "flower.jpg"}
_COLUMNS = {"train": (0.0, 0.6), "dev": (0.6, 0.8), "test": (0.8, 1.0)}


def backgrounds(rng: np.random.Generator, world: str, textures: np.ndarray, split: Split) -> np.ndarray:
    """Paints backgrounds.

    Args:
        rng: The source of chance.
        world: A key of TEXTURES.
        textures: (B,) an index into the world's textures.
        split: Whose part of the photograph may be shown.

    Returns:
        (B, S, S, 3), float32, between 0 and about 130: darker than things.
    """
    canvas = np.empty((len(textures), SIZE, SIZE, 3), np.float32)
    for index, name in enumerate(TEXTURES[world]):
        there = np.flatnonzero(textures == index)
        if name == "photo":
            canvas[there] = _crops(rng, len(there), world, split)
        elif len(there):
            pattern = _PATTERNS[name](rng, len(there))[..., None]
            dark, light = rng.uniform(5, 60, (2, len(there), 1, 1, 3)).astype(np.float32)
            canvas[there] = dark + (light + 25 - dark) * pattern
    return canvas + rng.integers(-5, 6, (len(textures), SIZE, SIZE, 1))


@cache
def _photo(world: str) -> np.ndarray:
    from sklearn.datasets import load_sample_images

    shown = load_sample_images()
    index = next(at for at, name in enumerate(shown.filenames) if str(name).endswith(_PHOTOS[world]))
    photo = Image.fromarray(shown.images[index])
    return np.asarray(photo.resize((int(photo.width * 1.6), int(photo.height * 1.6)), Image.Resampling.BICUBIC))


def _crops(rng: np.random.Generator, count: int, world: str, split: Split) -> np.ndarray:
    photo = _photo(world)
    low, high = (int(photo.shape[1] * part) for part in _COLUMNS[split])
    rows, cols = rng.integers(0, photo.shape[0] - SIZE, count), rng.integers(low, high - SIZE, count)
    crops = [photo[row : row + SIZE, col : col + SIZE] for row, col in zip(rows, cols, strict=True)]
    return 0.42 * np.array(crops, np.float32).reshape(count, SIZE, SIZE, 3)


def _axes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two (B, S, S) coordinates in pixels, turned and shifted by chance."""
    row, col = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    turn = rng.uniform(0, np.pi, (count, 1, 1)).astype(np.float32)
    shift = rng.uniform(0, 50, (2, count, 1, 1)).astype(np.float32)
    return row * np.cos(turn) + col * np.sin(turn) + shift[0], col * np.cos(turn) - row * np.sin(turn) + shift[1]


def _period(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.uniform(6, 18, (count, 1, 1)).astype(np.float32)


def _stripes(rng: np.random.Generator, count: int) -> np.ndarray:
    return (np.sin(2 * np.pi * _axes(rng, count)[0] / _period(rng, count)) > 0).astype(np.float32)


def _checks(rng: np.random.Generator, count: int) -> np.ndarray:
    first, second = (axis // _period(rng, count) for axis in _axes(rng, count))
    return ((first + second) % 2).astype(np.float32)


def _waves(rng: np.random.Generator, count: int) -> np.ndarray:
    first, second = _axes(rng, count)
    return 0.5 + 0.5 * np.sin(2 * np.pi * (first + 5 * np.sin(second / 9)) / (1.5 * _period(rng, count)))


def _grain(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.repeat(np.repeat(rng.random((count, SIZE // 2, SIZE // 2)).astype(np.float32), 2, 1), 2, 2)


def _dots(rng: np.random.Generator, count: int) -> np.ndarray:
    period = _period(rng, count)
    first, second = (axis % period - period / 2 for axis in _axes(rng, count))
    return (first**2 + second**2 < (0.33 * period) ** 2).astype(np.float32)


def _bricks(rng: np.random.Generator, count: int) -> np.ndarray:
    first, second = _axes(rng, count)
    period = _period(rng, count)
    along = (second + (first // period) % 2 * period) % (2 * period)
    return ((first % period > 2) & (along > 2)).astype(np.float32)


def _rings(rng: np.random.Generator, count: int) -> np.ndarray:
    row, col = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    centre = rng.uniform(0, SIZE, (2, count, 1, 1)).astype(np.float32)
    return 0.5 + 0.5 * np.sin(2 * np.pi * np.hypot(row - centre[0], col - centre[1]) / _period(rng, count))


def _clouds(rng: np.random.Generator, count: int) -> np.ndarray:
    total = np.zeros((count, SIZE, SIZE), np.float32)
    for cells in (7, 14, 28):
        rough = rng.random((count, cells, cells))
        scaled = [
            Image.fromarray(part.astype(np.float32)).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for part in rough
        ]
        total += np.array(scaled, np.float32).reshape(count, SIZE, SIZE) * 7 / cells
    return np.clip(total / 1.75, 0, 1)


_PATTERNS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "stripes": _stripes,
    "checks": _checks,
    "waves": _waves,
    "grain": _grain,
    "dots": _dots,
    "bricks": _bricks,
    "rings": _rings,
    "clouds": _clouds,
}
