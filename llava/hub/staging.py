"""A folder that appears whole or not at all."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llava.hub.card.sample import README, is_picture
from llava.hub.exchange import exchange
from llava.locks import held, is_held
from llava.model.checkpoints.files import read_json
from llava.plain_files import expanded

logger = logging.getLogger(__name__)

MANIFEST = "export.json"
VIDEO_PROCESSOR = "video_preprocessor_config.json"  # of transformers
_PARTIAL, _REPLACED = ".partial-", ".replaced-"  # in the names of folders beside the one that is made
_IN_USE = ".in-use"
_LONG_AGO = 3600.0  # seconds
_SPARE_BYTES = 64 * 2**20  # for config, tokenizer and the file system's own


@contextmanager
def staged(output: str | Path, overwrite: bool, sources: Sequence[Path] = ()) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its name when the block ends without an error.

    A link to a folder stays one: what it leads to is replaced. At every instant the old folder or the new one is there.
    What an interrupted export has left behind is removed first.

    Args:
        output: The folder to make.
        overwrite: Replace an earlier export there; its card, and the card's picture, stay.
        sources: Folders that are being read, which `output` must not be or hold.

    Raises:
        ValueError: `output` holds something that is not to be replaced.
    """
    target = _followed(expanded(output))
    _recover(target)
    _check_output(target, overwrite, sources)
    target.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=f".{target.name}{_PARTIAL}", dir=target.parent))
    try:
        with held(room / _IN_USE):
            work = room / target.name  # in the room, for mkdtemp lets nobody else read that
            work.mkdir()
            yield work
            _check_output(target, overwrite, sources)  # again: the work may have taken an hour
            _put_in_place(work, target)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def check_space(folder: Path, needed: int) -> None:
    """Before anything large is written.

    Raises:
        ValueError: The disk has no room for it.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise ValueError(
            f"--output {folder.parent.parent / folder.name}: the disk has {free / 1e9:.1f} GB free, "
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


def _followed(output: Path) -> Path:
    """Where a path leads, links followed."""
    try:
        return output.resolve()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"--output {output}: a link that leads nowhere: {error}") from error


def _recover(target: Path) -> None:
    """Removes what interrupted exports have left beside a folder, and puts one back that was set aside."""
    pattern = re.compile(rf"\.{re.escape(target.name)}({_PARTIAL}|{_REPLACED})[^.]+")
    beside = sorted(target.parent.iterdir()) if target.parent.is_dir() else []
    for folder in (each for each in beside if pattern.fullmatch(each.name) and each.is_dir()):
        is_set_aside = _REPLACED in folder.name
        if is_set_aside and not target.exists():
            os.replace(folder, target)
            logger.warning("%s: put back, as an interrupted export had set it aside", target)
        elif is_set_aside or _is_abandoned(folder):
            shutil.rmtree(folder)
            logger.warning("%s: removed, as an interrupted export had left it", folder)


def _is_abandoned(room: Path) -> bool:
    """Whether nobody works in a folder; one that has just been made is not locked yet."""
    if (room / _IN_USE).exists():
        return not is_held(room / _IN_USE)
    return time.time() - room.stat().st_mtime > _LONG_AGO


def _put_in_place(work: Path, target: Path) -> None:
    if not target.exists():
        os.replace(work, target)
        return
    for name in _card_names(target):
        shutil.copyfile(target / name, work / name)
    if exchange(work, target):  # and `work`, now the old folder, is removed
        return
    old = target.parent / work.parent.name.replace(_PARTIAL, _REPLACED)
    os.replace(target, old)
    try:
        os.replace(work, target)
    except OSError:
        os.replace(old, target)
        raise
    shutil.rmtree(old)
