"""Downloads published files into the local layout: each goes on where it was, is checked, recorded and unpacked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from llava.data.prepare.archive import ArchiveError, check_zip, extract_zip, last_file, require_space
from llava.data.prepare.catalog import RemoteFile
from llava.data.prepare.download import Downloader, DownloadError
from llava.data.prepare.lock import LockFile
from llava.eval.sources.published import PublishedFiles

_ATTEMPTS_AT_CONTENT = 2  # what arrives whole but damaged is fetched once more


@dataclass(frozen=True)
class Fetcher:
    """A data root that files are fetched into.

    Attributes:
        root: The data root.
        downloader: How.
        lock: The record of sizes and hashes.
        delete_archives: Remove an archive once it is unpacked.
    """

    root: Path
    downloader: Downloader
    lock: LockFile
    delete_archives: bool = False

    def get(self, published: PublishedFiles) -> None:
        """Gets all files of a benchmark, and puts them where its task reads them.

        Raises:
            DownloadError: A file cannot be downloaded, or what comes is another file.
            ChangedFileError: A file differs from its record.
            ArchiveError: An archive is damaged.
            OSError: The disk is full or not writable.
        """
        try:
            for file in published.files:
                self._get(file)
                if file.extract_to is not None:
                    self._unpack(file)
        finally:
            self.lock.save()
        for wanted in published.wanted:
            _bring_up(self.root / wanted)
        for link, target in published.links.items():
            self._link(self.root / link, self.root / target)

    def _get(self, file: RemoteFile) -> None:
        target = self.root / file.path
        if target.is_file():
            self.lock.check(file.path, target, file.url)
            return
        if file.extract_to is not None and self._is_unpacked(file):
            return
        part = target.with_name(f"{target.name}.part")
        size = self.downloader.size_of(file.url)
        have = part.stat().st_size if part.is_file() else 0
        if size is not None:
            require_space(self.root, size - have, file.path)
        for attempt in range(1, _ATTEMPTS_AT_CONTENT + 1):
            with _bar(file.path, size) as progress:
                self.downloader.fetch(file.url, part, progress)
            try:
                _check(part, file)
                break
            except ValueError as error:
                part.unlink()
                if attempt == _ATTEMPTS_AT_CONTENT:
                    raise DownloadError(file.url, f"damaged or not the file: {error}") from error
        self.lock.check(file.path, part, file.url)
        part.replace(target)

    def _unpack(self, file: RemoteFile) -> None:
        """Unpacks an archive; present files stay, and those that `_bring_up` moved are not written again."""
        archive = self.root / file.path
        assert file.extract_to is not None
        folder = self.root / file.extract_to
        if archive.is_file() and (self.lock.is_unpacked(file.path, folder) or not self._is_unpacked(file)):
            with _bar(f"unpacking {file.path}") as progress:
                count = extract_zip(archive, folder, progress=progress)
            self.lock.update(file.path, {"extracted": count, "last": last_file(archive)})
            self.lock.save()
        if self.delete_archives:
            archive.unlink(missing_ok=True)

    def _is_unpacked(self, file: RemoteFile) -> bool:
        """Whether an archive's last file is here: where it was unpacked, or where `_bring_up` has moved it."""
        last, folder = self.lock.last_of(file.path), self.root / str(file.extract_to)
        parts = Path(last).parts if last is not None else ()
        return any(folder.joinpath(*parts[start:]).is_file() for start in range(len(parts)))

    def _link(self, link: Path, target: Path) -> None:
        """Lets one folder stand for another, unless there is one already."""
        if not link.exists() and target.is_dir():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(target, link.parent))


def _check(part: Path, file: RemoteFile) -> None:
    """Raises ValueError for an error page in a file's place."""
    if file.extract_to is not None:
        check_zip(part)
        return
    with part.open("rb") as opened:
        head = opened.read(256).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"version https://git-lfs")) or not head:
        raise ArchiveError(f"it begins with {head[:20]!r}")


def _bring_up(wanted: Path) -> None:
    """Where an archive has a file in a folder of its own, moves that folder's contents to where they are read."""
    if wanted.exists() or not wanted.parent.is_dir():
        return
    found = sorted(wanted.parent.rglob(wanted.name))
    if len(found) == 1:
        # The wanted file last: it says that all are there.
        for entry in sorted(found[0].parent.iterdir(), key=lambda path: (path == found[0], path)):
            if not (wanted.parent / entry.name).exists():
                entry.rename(wanted.parent / entry.name)


@contextmanager
def _bar(name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    with tqdm(desc=name, total=total, unit="B", unit_scale=True, mininterval=1.0) as bar:

        def move(count: int) -> None:
            bar.update(count)

        yield move
