"""Images that are published one by one: OCR-VQA's book covers, all of which LLaVA's JSON calls `.jpg`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llava.data.records import is_text
from llava.json_text import parse_json

_OTHER_SUFFIXES = (".gif", ".png", ".jpeg", ".JPG", ".GIF", ".PNG")
_LONGEST_NAME = 240  # bytes; most disks take 255, and a part is called `NAME.part.json`


@dataclass(frozen=True)
class ImageJob:
    """An image to fetch.

    Attributes:
        path: Where it goes, relative to the root.
        url: Where it is; None if nobody says.
    """

    path: str
    url: str | None


def image_jobs(names: Iterable[str], folder: str, index: Path | None, base_url: str | None) -> list[ImageJob]:
    """The images of a folder that the annotations name, each once, with its URL.

    Args:
        names: Image paths of the annotations.
        folder: Only those right inside are meant, by names that a disk can take.
        index: JSON object `{id: {"imageURL": ...}}`; not needed for a mirror.
        base_url: A mirror with the layout of a prepared root.

    Raises:
        ValueError: The index is of another form.
    """
    wanted = sorted({name for name in names if str(PurePosixPath(name).parent) == folder and _is_usable(name)})
    if index is None:
        return [ImageJob(name, f"{str(base_url).rstrip('/')}/{name}") for name in wanted]
    entries = parse_json(index.read_text(encoding="utf-8"))
    if not isinstance(entries, dict):
        raise ValueError(f"{index} holds a {type(entries).__name__}, not an object of images by id")
    jobs = []
    for name in wanted:
        entry = entries.get(PurePosixPath(name).stem)
        url = entry.get("imageURL") if isinstance(entry, dict) else None
        jobs.append(ImageJob(name, url if isinstance(url, str) else None))
    return jobs


def _is_usable(name: str) -> bool:
    """Whether a disk takes this name, and that of its part."""
    return is_text(name) and len(PurePosixPath(name).name.encode()) <= _LONGEST_NAME


def adopt_other_suffix(target: Path) -> bool:
    """Gives an image that was saved with another suffix (as in its URL) the name that the annotations use."""
    for suffix in _OTHER_SUFFIXES:
        other = target.with_suffix(suffix)
        if target.exists() or not other.is_file():
            continue
        try:
            check_image(other)
        except ValueError:
            continue
        try:
            os.link(other, target)
        except OSError:  # no hard links on this disk
            shutil.copyfile(other, target)
        return True
    return False


def check_image(file: Path) -> None:
    """Raises ValueError unless a file is a whole image; shops send a single pixel in place of a cover that is gone."""
    from llava.images.processing import (  # Pillow, which the command line's help can do without
        ImageDecodeError,
        load_image,
    )

    try:
        size = load_image(file).size
    except ImageDecodeError as error:
        raise ValueError(f"what came is no whole image ({error})") from error
    if size == (1, 1):
        raise ValueError("what came is a placeholder of one pixel")
