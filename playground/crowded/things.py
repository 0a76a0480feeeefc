"""What stands in a crowded picture: handwritten digits, shapes, printed words and numbers, and distractors.

Every thing has many instances: digits of scikit-learn's collection, shapes with corners of chance, words and numbers in
the fonts that matplotlib ships. Each instance belongs to one of three splits, and no split sees those of another.

Shape legend: A instances, G = 24 pixels, the side of the largest thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Split = Literal["train", "dev", "test"]

PATCH = 8
SIDE = 3 * PATCH
SIZES = ("large", "small")
KINDS = ("digit", "shape", "word", "number")
NAMES: dict[str, tuple[str, ...]] = {
    "digit": tuple("0123456789"),
    "shape": ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "moon"),
    "word": ("sun", "cat", "dog", "bus", "map", "ice", "tea", "box", "key", "pen", "fox", "owl"),
    "number": ("12", "16", "25", "31", "36", "47", "58", "64", "72", "79", "83", "90"),
}
ALL_NAMES = tuple(name for kind in KINDS for name in NAMES[kind])
KIND_OF = np.array([place for place, kind in enumerate(KINDS) for _ in NAMES[kind]])
"""(42,): the kind of each of ALL_NAMES, an index into KINDS."""
FOOTPRINTS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "digit": ((3, 3), (2, 2)),
    "shape": ((3, 3), (2, 2)),
    "word": ((2, 3), (1, 2)),
    "number": ((2, 2), (1, 2)),
}
"""Height and width in patches, large and small."""
FOOTPRINT = np.array([FOOTPRINTS[kind] for kind in KINDS])[KIND_OF]
"""(42, 2, 2): of each name and size, height and width in patches."""

_SPLITS: tuple[Split, ...] = ("train", "dev", "test")
_DIGIT_SPLITS = {"train": slice(0, 1150), "dev": slice(1150, 1437), "test": slice(1437, None)}
_VARIANTS = {"train": (0, 70), "dev": (70, 85), "test": (85, 100)}
_FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
)
_FONTS_OF = {"train": slice(0, 15), "dev": slice(15, 18), "test": slice(18, 21)}
_SYMBOLS = "#&@%?!*+=<>$"
_OVERSAMPLING = 4


@dataclass(frozen=True)
class Bank:
    """The instances of one split.

    Attributes:
        ink: (A, G, G) between 0 and 1, in the upper left corner.
        first: (42, 2) where the instances of a name and size begin.
        count: (42, 2) how many there are.
        distractors: (D, G, G) ink of what nobody asks about, up to 2 x 2 patches.
    """

    ink: np.ndarray
    first: np.ndarray
    count: np.ndarray
    distractors: np.ndarray


@cache
def load_bank(split: Split) -> Bank:
    """Draws all instances of a split; the same for the same split."""
    parts: list[np.ndarray] = []
    first, count = np.zeros((len(ALL_NAMES), 2), np.int64), np.zeros((len(ALL_NAMES), 2), np.int64)
    drawn = 0
    for index, name in enumerate(ALL_NAMES):
        kind = KINDS[KIND_OF[index]]
        for size in range(len(SIZES)):
            height, width = (PATCH * int(length) for length in FOOTPRINT[index, size])
            part = _unseen(kind, name, split, height, width)
            first[index, size], count[index, size] = drawn, len(part)
            drawn += len(part)
            parts.append(np.pad(part, ((0, 0), (0, SIDE - height), (0, SIDE - width))))
    return Bank(np.concatenate(parts), first, count, _distractors(split))


def _unseen(kind: str, name: str, split: Split, height: int, width: int) -> np.ndarray:
    """(A, height, width) ink of one thing; what two fonts draw alike belongs to the first split that has it."""
    earlier = _SPLITS[: _SPLITS.index(split)]
    seen = {ink.tobytes() for other in earlier for ink in _instances(kind, name, other, height, width)}
    return np.stack([ink for ink in _instances(kind, name, split, height, width) if ink.tobytes() not in seen])


@cache
def _instances(kind: str, name: str, split: Split, height: int, width: int) -> np.ndarray:
    """(A, height, width) ink of one thing."""
    if kind == "digit":
        from sklearn.datasets import load_digits  # seconds that `--help` can do without

        digits = load_digits()
        part = _DIGIT_SPLITS[split]
        chosen = digits.images[part][digits.target[part] == int(name)] / 16.0
        return np.stack([_fit(image, height, width) for image in np.clip(1.25 * chosen, 0, 1)])
    if kind == "shape":
        return np.stack([_shape(name, variant, height, width) for variant in range(*_VARIANTS[split])])
    return np.stack([_text(name.upper(), font, height, width) for font in _fonts_of(name, split)])


def _fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    scaled = Image.fromarray((255 * image).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(scaled, np.float32) / 255


def _fonts_of(name: str, split: Split) -> list[str]:
    """Each name deals the fonts to the splits in an order of its own, so that every font is seen in training."""
    order = np.random.default_rng([ALL_NAMES.index(name), 5]).permutation(len(_FONTS))
    return [_FONTS[int(index)] for index in order[_FONTS_OF[split]]]


def _text(text: str, font: str, height: int, width: int) -> np.ndarray:
    """(height, width) ink of a text as large as fits, a pixel free on each side where there is room."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts/ttf" / f"{font}.ttf"
    scale = _OVERSAMPLING
    room_x, room_y = scale * (width - 1), scale * (height - 1)
    trial = ImageFont.truetype(str(path), 100)
    left, top, right, bottom = trial.getbbox(text)
    face = ImageFont.truetype(str(path), int(100 * min(room_x / (right - left), room_y / (bottom - top))))
    left, top, right, bottom = face.getbbox(text)
    page = Image.new("L", (scale * width, scale * height))
    corner = ((page.width - right - left) / 2, (page.height - bottom - top) / 2)
    ImageDraw.Draw(page).text(corner, text, fill=255, font=face)
    return np.asarray(page.resize((width, height), Image.Resampling.BOX), np.float32) / 255


def _shape(name: str, variant: int, height: int, width: int) -> np.ndarray:
    """(height, width) ink of a shape whose size, turn and corners are of chance."""
    rng = np.random.default_rng([ALL_NAMES.index(name), variant, 7])
    scale = _OVERSAMPLING
    page = Image.new("L", (scale * width, scale * height))
    draw = ImageDraw.Draw(page)
    centre = np.array([page.width, page.height]) / 2 + rng.uniform(-1, 1, 2) * scale
    radius = scale * (min(height, width) / 2 - 1.5) * rng.uniform(0.8, 1.0)
    turn = rng.uniform(-0.25, 0.25)

    def corners(angles: np.ndarray, radii: np.ndarray | float) -> list[tuple[float, float]]:
        where = centre + (radius * radii * np.stack([np.sin(angles + turn), -np.cos(angles + turn)])).T
        return [(float(x), float(y)) for x, y in where + rng.normal(0, 0.04 * radius, where.shape)]

    def disc(middle: np.ndarray, size: float, fill: int) -> None:
        draw.ellipse([*(middle - size), *(middle + size)], fill=fill)

    around = 2 * np.pi * np.arange(16) / 16
    if name in ("circle", "ring", "moon"):
        disc(centre, radius, 255)
        if name == "ring":
            disc(centre, 0.55 * radius, 0)
        if name == "moon":
            disc(centre + radius * np.array([np.cos(turn), np.sin(turn)]) * 0.5, 0.8 * radius, 0)
    elif name == "square":
        draw.polygon(corners(np.pi / 4 + np.pi / 2 * np.arange(4), 1.15), fill=255)
    elif name == "diamond":
        draw.polygon(corners(np.pi / 2 * np.arange(4), np.array([1.2, 0.7, 1.2, 0.7])), fill=255)
    elif name == "triangle":
        draw.polygon(corners(2 * np.pi / 3 * np.arange(3), 1.15), fill=255)
    elif name == "star":
        draw.polygon(corners(2 * np.pi / 10 * np.arange(10), np.array([1.2, 0.45] * 5)), fill=255)
    else:  # a cross
        arms = np.array([1.1, 0.4, 1.1, 1.1] * 4)
        draw.polygon(corners(around - np.pi / 16 * 3, arms), fill=255)
    return np.asarray(page.resize((width, height), Image.Resampling.BOX), np.float32) / 255


def _distractors(split: Split) -> np.ndarray:
    """(D, G, G) ink of signs and scribbles."""
    side = 2 * PATCH
    found = [_text(sign, font, side, side) for sign in _SYMBOLS for font in _fonts_of("sun", split)[:3]]
    for variant in range(*_VARIANTS[split]):
        rng = np.random.default_rng([variant, 11])
        page = Image.new("L", (_OVERSAMPLING * side, _OVERSAMPLING * side))
        points = rng.uniform(0.05, 0.95, (int(rng.integers(3, 7)), 2)) * page.width
        ImageDraw.Draw(page).line([(float(x), float(y)) for x, y in points], fill=255, width=int(rng.integers(4, 9)))
        found.append(np.asarray(page.resize((side, side), Image.Resampling.BOX), np.float32) / 255)
    return np.pad(np.stack(found), ((0, 0), (0, SIDE - side), (0, SIDE - side)))
