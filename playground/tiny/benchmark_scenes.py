"""What the miniature benchmarks are made of: pictures, questions with options, and where files and tables go."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from make_data import absent_digit
from PIL import Image
from questions import Digit, Question, ask, exist_question, read_scene
from scenes import COLOUR_NAMES, QUADRANTS, enlarge, load_block, render, sample_scenes

FORMATS = {".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0}, ".png": {"format": "PNG"}}
OPTIONS: dict[str, tuple[str, ...]] = {
    "which": tuple(map(str, range(10))),
    "colour": COLOUR_NAMES,
    "count": ("1", "2", "3", "4"),
    "where": QUADRANTS,
}


class Picture:
    """A held-out scene and its digits."""

    def __init__(self, pixels: np.ndarray, digits: list[Digit]) -> None:
        self.image = Image.fromarray(pixels)
        self.digits = digits
        self.encoded = cache(self._encode)

    def _encode(self, suffix: str) -> bytes:
        buffer = io.BytesIO()
        self.image.save(buffer, **FORMATS[suffix])
        return buffer.getvalue()

    def in_table(self, suffix: str) -> dict[str, Any]:
        """The picture as the Hub's tables hold images."""
        return {"bytes": self.encoded(suffix), "path": None}

    def told(self) -> str:
        """The scene in words: value, colour and place of each digit."""
        return ", ".join(f"{digit.value} {digit.colour} {digit.place}" for digit in self.digits)


@dataclass(frozen=True)
class Choice:
    """A question with options.

    Attributes:
        text: The question.
        options: Four of them.
        right: Index of the right one.
        kind: Kind of question.
    """

    text: str
    options: tuple[str, ...]
    right: int
    kind: str

    @property
    def letter(self) -> str:
        """Letter of the right option."""
        return "ABCD"[self.right]


def make_pictures(count: int, seed: int) -> list[Picture]:
    """Paints scenes of digits that no training step sees."""
    rng = np.random.default_rng(seed)
    block = load_block(held_out=True)
    scenes = sample_scenes(rng, block, count)
    pixels = render(rng, scenes, enlarge(block.images[scenes.sources]))
    return [Picture(pixels[index], read_scene(scenes, index)) for index in range(count)]


def choose(kind: str, digits: list[Digit], rng: np.random.Generator) -> Choice:
    """Asks a question of a kind in OPTIONS, and puts the right answer among three others."""
    question = ask(kind, digits, rng)
    others = [option for option in OPTIONS[kind] if option != question.answer]
    picked = [others[int(at)] for at in rng.permutation(len(others))[:3]]
    right = int(rng.integers(4))
    return Choice(question.text, (*picked[:right], question.answer, *picked[right:]), right, kind)


def yes_and_no(split: str, pictures: Sequence[Picture], picture: Picture, rng: np.random.Generator) -> list[Question]:
    """Asks after a digit that is there, and after one that is not, drawn in one of POPE's ways."""
    found = Counter(digit.value for other in pictures for digit in other.digits)
    common = sorted(range(10), key=lambda value: (-found[value], value))
    present = picture.digits[int(rng.integers(len(picture.digits)))].value
    absent = absent_digit(split, picture.digits, common, rng)
    return [exist_question(value, picture.digits) for value in (present, absent)]


@dataclass(frozen=True)
class Places:
    """Where a benchmark is written.

    Attributes:
        local: Root of the local layout.
        hub: Folder of the datasets as the Hub has them; None: no tables are written.
    """

    local: Path
    hub: Path | None

    def text(self, name: str, content: str) -> None:
        """Writes a file of the local layout."""
        self.content(name, content.encode())

    def json(self, name: str, content: Any) -> None:
        """Writes a JSON file of the local layout."""
        self.text(name, json.dumps(content, ensure_ascii=False, indent=1) + "\n")

    def lines(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a file of one JSON value a line."""
        self.text(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def content(self, name: str, content: bytes) -> None:
        """Writes bytes to a file of the local layout."""
        path = self.local / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def table(self, dataset: str, split: str, rows: Sequence[Mapping[str, Any]], config: str = "data") -> None:
        """Writes a dataset's split, if tables are wanted."""
        if self.hub is not None:
            write_table(self.hub / dataset / config / f"{split}-00000-of-00001.parquet", rows)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
