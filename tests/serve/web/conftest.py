"""The tiny model and a demo of it; no browser, no gradio."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from llava.inference import GenerationOptions, Inference
from llava.serve.web.events import Demo, Sent
from llava.serve.web.limits import Limits

ROOT = Path(__file__).parents[3]
SCENE = ROOT / "docs" / "assets" / "scene.png"
LIMITS = Limits(upload_bytes=100_000, pixels=400_000, question_characters=100, turns=3, visitors=2, new_tokens=16)


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture_file(size: tuple[int, int], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "navy").save(file, kind)
    return file.getvalue()


def sent(method: str, tokens: int = 20, merged: int = 3, picks: object = None) -> Sent:
    return Sent(method, tokens, merged, picks)


@pytest.fixture(scope="session")
def scene() -> dict[str, str]:
    return {"data": data_url(SCENE.read_bytes()), "name": "scene.png"}


@pytest.fixture(scope="session")
def tiny() -> Inference:
    return Inference.load(ROOT / "playground" / "tiny" / "model", device="cpu", compression="visionzip:41+8")


@pytest.fixture
def demo(tiny: Inference) -> Demo:
    return Demo(tiny, LIMITS, [("scene", Image.open(SCENE).convert("RGB"))], GenerationOptions(16))
