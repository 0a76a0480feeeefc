"""Files that stand where an image should."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import PIL.Image


def _png(width: int, height: int) -> bytes:
    """A valid PNG whose header asks for so many pixels, and whose data is short."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def _thin() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("L", (1, 65_000)).save(buffer, "png")
    return buffer.getvalue()


def _cut() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, "png")
    return buffer.getvalue()[:2000]


CONTENT: dict[str, bytes] = {
    "empty.png": b"",
    "text.png": b"this is no image",
    "cut.png": _cut(),
    "thin.png": _thin(),
    "bomb.png": _png(60_000, 60_000),
    "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 4221\n",
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}
NAMES = ["missing.png", "folder.png", "pipe.png", *CONTENT]


def make(folder: Path) -> Path:
    """Writes all of them into a folder."""
    folder.mkdir(parents=True)
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    return folder
