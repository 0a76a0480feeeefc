"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llava.hub.card.sample import README, is_picture
from llava.model.checkpoints.files import read_json

MANIFEST = "export.json"
_SPARE_BYTES = 64 * 2**20  # for config, tokenizer and the file system's own


@contextmanager
def staged(output: str | Path, overwrite: bool, sources: Sequence[Path] = ()) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its name when the block ends without an error.

    Args:
        output: The folder to make.
        overwrite: Replace an earlier export there; its card, and the card's picture, stay.
        sources: Folders that are being read, which `output` must not be or hold.

    Raises:
        ValueError: `output` holds something that is not to be replaced.
    """
    target = Path(output).expanduser().absolute()
    _check_output(target, overwrite, sources)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        work.chmod(0o777 & ~_umask())  # mkdtemp lets nobody else read it
        yield work
        _check_output(target, overwrite, sources)  # again: the work may have taken an hour
        _put_in_place(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_space(folder: Path, needed: int) -> None:
    """Before anything large is written.

    Raises:
        ValueError: The disk has no room for it.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise ValueError(
            f"--output {folder.parent}: the disk has {free / 1e9:.1f} GB free, "
            f"the export needs {(needed + _SPARE_BYTES) / 1e9:.1f} GB"
        )


def _check_output(target: Path, overwrite: bool, sources: Sequence[Path]) -> None:
    for source in (source.resolve() for source in sources):
        if target.resolve() == source or target.resolve() in source.parents:
            raise ValueError(f"--output {target} holds what is exported, or its base ({source}); choose another folder")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise ValueError(f"--output {target} exists already; choose another, or pass --overwrite")
    if not (target / MANIFEST).is_file():
        raise ValueError(
            f"--output {target} was not made by an export (it has no {MANIFEST}), so --overwrite does not remove it; "
            "remove it yourself or choose another folder"
        )
    foreign = sorted({file.name for file in target.iterdir()} - _exported_names(target))
    if foreign:
        raise ValueError(
            f"--output {target}: --overwrite would remove {', '.join(foreign)}, which no export has written; "
            "move them away or choose another folder"
        )


def _exported_names(folder: Path) -> set[str]:
    """What an export has written, and the card beside it."""
    listed = read_json(folder / MANIFEST).get("files")
    return {MANIFEST, *_card_names(folder), *(listed if isinstance(listed, dict) else ())}


def _card_names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if file.is_file() and (file.name == README or is_picture(file))}


def _put_in_place(work: Path, target: Path) -> None:
    if not target.exists():
        os.replace(work, target)
        return
    for name in _card_names(target):
        shutil.copyfile(target / name, work / name)
    old = work.with_name(work.name.replace(".partial-", ".replaced-"))
    os.replace(target, old)
    try:
        os.replace(work, target)
    except OSError:
        os.replace(old, target)
        raise
    shutil.rmtree(old)


def _umask() -> int:
    """The process's mask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
