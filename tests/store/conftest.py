"""A tiny model, pictures, and stores of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from llava.encoded.store import EncodedStore, open_store
from llava.inference import Inference
from llava.store.command import main

MODEL = Path(__file__).parents[2] / "playground" / "tiny" / "model"
SIZES = [(112, 112), (200, 120), (90, 180), (64, 48), (300, 300), (112, 80)]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of different sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, size in enumerate(SIZES):
        image = Image.new("RGB", size, (40 * number, 90, 255 - 30 * number))
        draw = ImageDraw.Draw(image)
        for step in range(5):
            corner = (7 * step * (number + 1)) % size[0], (11 * step) % size[1]
            draw.rectangle(
                [corner, (corner[0] + 20, corner[1] + 9 * step)], fill=(250 - 40 * step, 50 * step, 33 * number)
            )
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def files(pictures: Path) -> list[Path]:
    return sorted(pictures.iterdir())


@pytest.fixture(scope="session")
def build(pictures: Path) -> Callable[..., EncodedStore]:
    """Builds a store by the command, and opens it."""

    def build(output: Path, compression: str = "visionzip:41+8", *more: str, images: Any = None) -> EncodedStore:
        words = ["build", "--model-path", str(MODEL), "--device", "cpu", "--compression", compression]
        assert main([*words, "--images", str(images or pictures), "--output", str(output), *more]) == 0
        return open_store(output)

    return build


@pytest.fixture(scope="session")
def inference() -> Inference:
    return Inference.load(MODEL, device="cpu", compression="visionzip:41+8")
