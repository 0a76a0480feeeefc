"""What `--images` names, as files to encode: a folder, a list, or a data set of training.

DIR                  all images in it and below
LIST.jsonl, .json    entries with `image`: a path or several, as LLaVA's data have it; all else in them is ignored
hf:OWNER/NAME...,    a table, as `--data_path` of training takes it
*.parquet, DIR of parquet or Arrow files
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llava.data.open_records import open_entries
from llava.data.records import ImageRef, StoredImage, images_of
from llava.data.tables.open_table import is_table
from llava.encoded.errors import StoreError
from llava.encoded.index import FileStamp
from llava.images.folders import image_files
from llava.images.paths import path_inside
from llava.store.fill import NamedFile

_TABLE_SUFFIXES = (".parquet", ".arrow")
_STATE_FILES = ("state.json", "dataset_dict.json")  # of `Dataset.save_to_disk`


def named_images(named: str, image_folder: str | None = None) -> list[NamedFile]:
    """The images that a word of the command line names, each file once; none is opened.

    Args:
        named: See the module.
        image_folder: Where the paths of a list begin; by default the list's own folder.

    Raises:
        StoreError: It names nothing, an entry names no image rightly, or an image is not there.
        ValueError: A table cannot be read.
        OSError: A file or folder cannot be read.
    """
    path = Path(named)
    if path.is_dir() and not _is_data_set(path):
        images: Iterable[NamedFile] = (_of_file(file) for file in image_files([path]))
    elif path.is_file() and path.suffix not in (".json", ".jsonl", *_TABLE_SUFFIXES):
        raise StoreError(f"--images {named}: this is a file; give a folder, LIST.jsonl or a table of training")
    elif not is_table(named) and not path.is_file():
        raise StoreError(f"--images {named}: there is no such folder, list or data set")
    else:
        images = _of_entries(named, Path(image_folder) if image_folder else path.parent)
    found = list({image.stamp.path: image for image in images}.values())
    if not found:
        raise StoreError(f"--images {named}: there is no image")
    return found


def _is_data_set(folder: Path) -> bool:
    """Whether a folder holds tables or a saved data set, and not images."""
    if any((folder / name).is_file() for name in _STATE_FILES):
        return True
    return any(file.suffix in _TABLE_SUFFIXES for file in folder.rglob("*"))


def _of_entries(named: str, root: Path) -> Iterator[NamedFile]:
    entries, place = open_entries(named)
    for number, entry in enumerate(entries):
        try:
            references: Sequence[Any] = images_of(entry)
        except (AttributeError, TypeError):
            raise StoreError(f"--images {named}: {place(number)} is no object with `image`: {entry!r:.80}") from None
        for reference in references:
            yield _of_reference(reference, root, f"{named}, {place(number)}")


def _of_reference(reference: ImageRef, root: Path, place: str) -> NamedFile:
    if isinstance(reference, StoredImage):
        stamp = FileStamp(reference.name, reference.num_bytes, reference.mtime_ns)
        return NamedFile(stamp, partial(_bytes_of, reference))
    if not isinstance(reference, str):
        raise StoreError(f"--images {place}: `image` is {reference!r:.80}, and should be a path or several")
    try:
        path = Path(reference) if Path(reference).is_absolute() else path_inside(root, reference)
    except ValueError as error:
        raise StoreError(f"--images {place}: image {error}") from None
    if not path.is_file():
        raise StoreError(f"--images {place}: there is no image {path}; --image-folder says where paths begin")
    return _of_file(path)


def _of_file(path: Path) -> NamedFile:
    if not path.is_file():
        raise StoreError(f"--images {path}: a broken link, a pipe or a device, and no file; take it away")
    return NamedFile(FileStamp.of(path), partial(Path, path))


def _bytes_of(image: StoredImage) -> bytes:
    content = image.read()
    if content is None:
        raise StoreError(f"image {image.name} is not in the table, which only names it")
    return content
