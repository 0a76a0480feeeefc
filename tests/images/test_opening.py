"""The one opener of images: bounds that the header shows, what is no file, and photos that a tag turns."""

from __future__ import annotations

import os
import re
import socket
import struct
import time
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil
from transformers.image_utils import load_image as transformers_load_image

from llava.images.processing import ImageTooLargeError, load_image, load_image_processor, process_images
from llava.images.source import UnreadableImageError, fetch_image, image_size, open_image
from llava.images.workers import ImageFeed

PAD = SimpleNamespace(image_aspect_ratio="pad")
SQUARE = SimpleNamespace(image_aspect_ratio="square")
TILES = SimpleNamespace(image_aspect_ratio="anyres", image_grid_pinpoints=[[336, 672], [672, 336]])
TURNING = SimpleNamespace(image_aspect_ratio="pad", anyres_rule="transformers")
NOT_TURNING = SimpleNamespace(image_aspect_ratio="pad", anyres_rule="llava")


def png(width: int, height: int) -> bytes:
    """A grey picture of nothing, however large, in few bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (width + 1) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture
def thin(tmp_path: Path) -> Path:
    path = tmp_path / "thin.png"
    path.write_bytes(png(1, 65_000))
    assert path.stat().st_size < 400
    return path


@pytest.mark.parametrize("config", [PAD, SQUARE], ids=["pad", "square"])
def test_a_small_file_that_becomes_gigabytes_is_refused_by_its_header(thin: Path, config: Any) -> None:
    processor = load_image_processor(Path(__file__).parents[1] / "fixtures" / "oracle" / "tiny-clip-vit-l14-336")
    start = time.perf_counter()
    message = r"1x65000 pixels become \d{10} once padded or scaled.*cut the image into parts or shrink it"
    for opener in (open_image, image_size):
        for source in (thin, str(thin), thin.read_bytes(), PIL.Image.new("L", (1, 65_000))):
            with pytest.raises(UnreadableImageError, match=message):
                opener(source, config)
    with pytest.raises(ValueError, match=r"image 1: 1x65000 pixels become"):
        process_images([PIL.Image.new("RGB", (4, 4)), load_image(thin)], processor, config)
    assert time.perf_counter() - start < 5


def test_tiles_bound_by_their_grid(thin: Path) -> None:
    assert open_image(thin, TILES).size == (1, 65_000), "tiles of a thin image are small"
    vast = SimpleNamespace(image_aspect_ratio="anyres", image_grid_pinpoints=[[336_000, 672_000]])
    with pytest.raises(UnreadableImageError, match="become 225792000000"):
        open_image(thin, vast)


def test_what_is_no_file_is_an_error_and_no_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    os.mkfifo("pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
        (tmp_path / "link.png").symlink_to("pipe.png")
        for name in ("pipe.png", "socket.png", "link.png", "/dev/zero", "/dev/stdin"):
            for opener in (open_image, image_size, fetch_image):
                with pytest.raises(UnreadableImageError, match=rf"{name}: a pipe, a socket or a device"):
                    opener(name)
    for opener in (open_image, image_size, fetch_image):
        with pytest.raises(UnreadableImageError, match=r"cannot read image .*: Is a directory"):
            opener(tmp_path)
        with pytest.raises(UnreadableImageError, match=r"cannot read image nowhere\.png: No such file"):
            opener("nowhere.png")
        with pytest.raises(UnreadableImageError, match="null byte"):
            opener("a\0b.png")
        with pytest.raises(UnreadableImageError, match="File name too long"):
            opener("a" * 5_000)


def photo(path: Path, orientation: int) -> Path:
    """A picture whose four corners differ, with EXIF's tag."""
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[:10, :15], pixels[:10, 15:], pixels[10:, :15] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(pixels).save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_turn_as_in_plain_transformers(suffix: str, orientation: int, tmp_path: Path) -> None:
    path = photo(tmp_path / f"photo{suffix}", orientation)
    theirs = transformers_load_image(str(path))
    for source in (path, str(path), path.read_bytes()):
        assert open_image(source, TURNING).tobytes() == theirs.tobytes()
        assert image_size(source, TURNING) == theirs.size
    with PIL.Image.open(path) as stored, warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert open_image(path, NOT_TURNING).tobytes() == stored.convert("RGB").tobytes()
        assert image_size(path, NOT_TURNING) == stored.size
        assert suffix == ".tiff" or stored.size == (30, 20), "Pillow turns TIFF for everyone"
        assert open_image(stored, TURNING).size == stored.size, "transformers leaves a picture that is there as it is"


def test_a_tag_that_is_ignored_warns_once(tmp_path: Path) -> None:
    turned, upright = photo(tmp_path / "turned.jpg", 6), photo(tmp_path / "upright.jpg", 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        open_image(upright, NOT_TURNING)
        open_image(turned, TURNING)
        assert not caught
        for _ in range(3):
            image_size(turned, NOT_TURNING)
            open_image(turned, NOT_TURNING)
    [warning] = caught
    assert "EXIF tag" in str(warning.message) and "docs/checkpoints.md" in str(warning.message)


def test_damaged_metadata_harm_no_pixels(tmp_path: Path) -> None:
    path = tmp_path / "odd.jpg"
    PIL.Image.new("RGB", (30, 20), (200, 10, 10)).save(path, exif=b"Exif\0\0not a TIFF header at all")
    assert open_image(path, TURNING).size == image_size(path, TURNING) == (30, 20)
    assert open_image(path, NOT_TURNING).size == (30, 20)


@pytest.mark.parametrize("aspect_ratio", [None, "pad", "anyres"])
def test_the_bound_counts_the_size_of_the_checkpoints_image_processor(aspect_ratio: str | None) -> None:
    config = SimpleNamespace(image_aspect_ratio=aspect_ratio, image_grid_pinpoints=[[32, 32]])
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16_384}, crop_size={"height": 336, "width": 336})
    with Image.new("RGB", (3000, 30)) as image, pytest.raises(ImageTooLargeError, match="3000x30 pixels become"):
        process_images([image], processor, config)
    crop = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 16_384, "width": 16_384})
    with Image.new("RGB", (30, 30)) as image, pytest.raises(ImageTooLargeError, match="30x30 pixels become"):
        process_images([image], crop, config)


def test_a_question_whose_image_the_processor_would_blow_up_is_told_with_its_name(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 30)).save(tmp_path / "wide.png")
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16_384}, crop_size={"height": 336, "width": 336})
    feed = ImageFeed({"a": tmp_path / "wide.png"}, processor, SimpleNamespace(), torch.device("cpu"))
    with feed:
        assert re.search(r"cannot prepare image .*wide\.png: 3000x30 pixels become", feed.take(["a"])[0].error)
