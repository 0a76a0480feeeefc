"""The images that people name: files, and folders of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

IMAGE_TYPES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def image_files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files, and those in folders and below that are named as images, sorted.

    Raises:
        FileNotFoundError: A path is not there.
    """
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_TYPES)
        elif path.exists():
            yield path
        else:
            raise FileNotFoundError(f"--images {path}: there is no such file or folder")
