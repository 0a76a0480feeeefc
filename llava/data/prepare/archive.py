"""Unpacks zip archives: nothing is written outside the folder, present files are skipped, the room is checked first."""

from __future__ import annotations

import errno
import lzma
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from llava.data.prepare.download import Stopped

_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError)
_UNUSABLE_NAME = frozenset({errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ})


class ArchiveError(ValueError):
    """An archive is damaged or unsafe; the message names it and the file inside."""


def check_zip(file: Path) -> None:
    """Raises ArchiveError unless a file is a zip archive with its directory in place."""
    try:
        zipfile.ZipFile(file).close()
    except (*_DAMAGE, OSError, ValueError) as error:
        raise ArchiveError(f"not a whole zip archive ({error})") from error


def extract_zip(
    archive: Path, folder: Path, *, progress: Callable[[int], None], is_stopped: Callable[[], bool] = lambda: False
) -> int:
    """Unpacks what is not there yet; a file appears under its name when it is whole.

    Args:
        archive: The zip file.
        folder: Where to.
        progress: Called with the bytes written.
        is_stopped: Asked before every file.

    Returns:
        Files in the archive.

    Raises:
        ArchiveError: A path would leave the folder (then nothing is written), a name cannot be used on this disk, or
            the data are damaged.
        OSError: The disk is too small.
        Stopped: `is_stopped` said so.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            targets = [_target(archive, member, folder) for member in members]
            wanted = [
                (member, target)
                for member, target in zip(members, targets, strict=True)
                if not (target.is_file() and target.stat().st_size == member.file_size)
            ]
            _check_links(archive, {target.parent for _, target in wanted}, folder)
            require_space(folder, sum(member.file_size for member, _ in wanted), f"unpacking {archive}")
            for member, target in wanted:
                if is_stopped():
                    raise Stopped
                _write_member(opened, member, target)
                progress(member.file_size)
    except _DAMAGE as error:
        raise ArchiveError(f"{archive} is damaged ({error}); delete it to have it downloaded again") from error
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno not in _UNUSABLE_NAME:
            raise
        raise ArchiveError(f"{archive} cannot be unpacked in {folder}: {error}") from error
    return len(members)


def last_file(archive: Path) -> str | None:
    """The file that `extract_zip` writes last, by its name in the archive; None if it holds none."""
    with zipfile.ZipFile(archive) as opened:
        return next((member.filename for member in reversed(opened.infolist()) if not member.is_dir()), None)


def _target(archive: Path, member: zipfile.ZipInfo, folder: Path) -> Path:
    """Where a file of the archive goes.

    Raises:
        ArchiveError: Outside the folder, or it is a link.
    """
    name = PurePosixPath(member.filename)
    unsafe = name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in member.filename
    if unsafe or stat.S_ISLNK(member.external_attr >> 16):
        raise ArchiveError(f"{archive} holds {member.orig_filename!r}, which leaves {folder} or is a link: refused")
    return folder / name


def _check_links(archive: Path, parents: set[Path], folder: Path) -> None:
    """Refuses to write through links that are in the folder already and lead out of it."""
    inside = folder.resolve()
    for parent in sorted(parents):
        if not parent.resolve().is_relative_to(inside):
            raise ArchiveError(f"{archive}: {parent} is a link that leaves {folder}: refused")


def _write_member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    with opened.open(member) as source, partial.open("wb") as file:
        try:
            shutil.copyfileobj(source, file, 1 << 20)
        except OSError as error:
            if error.errno is None:  # bz2's word for damaged data
                raise zipfile.BadZipFile(f"{member.filename}: {error}") from error
            raise
    partial.replace(target)


def require_space(folder: Path, num_bytes: int, what: str) -> None:
    """Checks that the disk of a folder has room.

    Raises:
        OSError: It has not; says how much is needed and how much there is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise OSError(f"{what} needs {num_bytes / 1e9:.1f} GB in {folder}, but the disk has {free / 1e9:.1f} GB left")
