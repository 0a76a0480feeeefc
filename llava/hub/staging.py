"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MANIFEST = "export.json"
_SPARE_BYTES = 64 * 2**20  # for config, tokenizer and the file system's own


@contextmanager
def staged(output: str | Path, overwrite: bool, sources: tuple[Path, ...] = ()) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its name when the block ends without an error.

    Args:
        output: The folder to make.
        overwrite: Replace an earlier export there.
        sources: Folders that are being read, which `output` must not be or hold.

    Raises:
        ValueError: `output` holds something that is not to be replaced.
    """
    target = Path(output).expanduser().absolute()
    _check_output(target, overwrite, sources)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        work.chmod(0o777 & ~_umask())
        yield work
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


def _check_output(target: Path, overwrite: bool, sources: tuple[Path, ...]) -> None:
    for source in (source.resolve() for source in sources):
        if target.resolve() == source or target.resolve() in source.parents:
            raise ValueError(f"--output {target} holds what is exported ({source}); choose another folder")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise ValueError(f"--output {target} exists already; choose another, or pass --overwrite")
    if not (target / MANIFEST).is_file():
        raise ValueError(
            f"--output {target} was not made by an export (it has no {MANIFEST}), so --overwrite does not remove it; "
            "remove it yourself or choose another folder"
        )


def _put_in_place(work: Path, target: Path) -> None:
    if not target.exists():
        os.replace(work, target)
        return
    old = work.with_name(work.name.replace(".partial-", ".replaced-"))
    os.replace(target, old)
    try:
        os.replace(work, target)
    except OSError:
        os.replace(old, target)
        raise
    shutil.rmtree(old)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
