"""The work of `python -m llava.data.prepare`: download, check, unpack, and say what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava.data.prepare.archive import ArchiveError, check_zip, extract_zip, last_file, require_space
from llava.data.prepare.catalog import DatasetFiles, ImageList, RemoteFile
from llava.data.prepare.download import Downloader, DownloadError, UnreachableError
from llava.data.prepare.images import ImageJob, adopt_other_suffix, check_image, image_jobs
from llava.data.prepare.lock import ChangedFileError, LockFile
from llava.data.prepare.missing import PresentImages, names_of
from llava.data.records import read_entries

_ATTEMPTS_AT_CONTENT = 2  # what arrives whole but damaged is fetched once more
_SILENCES = 30  # after so many images in a row without an answer, the rest of a list is left for another run


@dataclass
class Outcome:
    """What is missing.

    Attributes:
        files: Path to reason.
        images: Path, as in the annotations, to reason.
    """

    files: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)


@dataclass
class Preparation:
    """A data set on its way into a root.

    Attributes:
        files: What to get.
        root: Where to.
        downloader: How.
        lock: The record of sizes and hashes.
        workers: Downloads at a time.
        base_url: A mirror that holds single images too.
        delete_archives: Remove an archive once it is unpacked.
    """

    files: DatasetFiles
    root: Path
    downloader: Downloader
    lock: LockFile
    workers: int = 8
    base_url: str | None = None
    delete_archives: bool = False
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def annotations(self) -> Path:
        """LLaVA's JSON."""
        return self.root / self.files.annotations.path

    @property
    def image_folder(self) -> Path:
        """Where the image paths of the JSON begin."""
        return self.root / self.files.image_folder

    def run(self) -> list[Any]:
        """Gets all files; those that could not be downloaded are in `outcome`.

        Returns:
            The annotations.

        Raises:
            DownloadError: The annotations cannot be downloaded.
            ValueError: A file differs from its record, or the annotations are no list.
            OSError: The disk is full or not writable.
        """
        try:
            with _bar("annotations", "B") as progress:
                self._ensure(self.files.annotations, _check_json, progress)
            records = [record for _, record in read_entries(self.annotations)]
            names = names_of(records)
            archives = self._needed_archives(names)
            self._get_archives(archives, total=self._require_space(archives))
            for images in self.files.image_lists:
                self._get_images(images, names)
        finally:
            self.lock.save()
        present = PresentImages(self.image_folder)
        reasons = self.outcome.images
        self.outcome.images = {
            name: reasons.get(name, "not there")
            for name in tqdm(names, desc="looking for images", unit=" images")
            if not present.has(name)
        }
        return records

    @property
    def indexes(self) -> list[RemoteFile]:
        """The lists of URLs that are needed; a mirror has the images themselves."""
        return [] if self.base_url else [images.index for images in self.files.image_lists]

    def plan(self, files: Sequence[RemoteFile]) -> list[tuple[RemoteFile, str, int | None]]:
        """Each file, `present`, `part`, `absent` or why it cannot be downloaded, and its size as the server says."""

        def look(file: RemoteFile) -> tuple[RemoteFile, str, int | None]:
            target = self.root / file.path
            if self._is_done(file):
                return file, "present", _size(target) or self.lock.files.get(file.path, {}).get("size")
            state = "part" if _part(target).is_file() else "absent"
            try:
                return file, state, self.downloader.size_of(file.url)
            except DownloadError as error:
                return file, str(error), None

        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(look, files))

    def _needed_archives(self, names: list[str]) -> list[RemoteFile]:
        """The archives that are here, and those that images are missing of; what was unpacked by hand needs none."""
        present = PresentImages(self.image_folder)
        missing = [self.image_folder / name for name in names if not present.has(name)]

        def is_needed(file: RemoteFile) -> bool:
            folder = self.root / str(file.extract_to)
            return (self.root / file.path).is_file() or any(path.is_relative_to(folder) for path in missing)

        return [file for file in self.files.archives if is_needed(file)]

    def _require_space(self, archives: list[RemoteFile]) -> int:
        """Room for the archives to come and, as images do not shrink when zipped, as much again; their sizes' sum."""
        coming = [(file, size) for file, state, size in self.plan(archives) if state != "present" and size is not None]
        unpacked = [size for _, size in coming]
        if self.delete_archives:  # those that are unpacked at the same time
            unpacked = sorted(unpacked, reverse=True)[: self.workers]
        downloads = sum(max(0, size - _size(_part(self.root / file.path))) for file, size in coming)
        require_space(self.root, downloads + sum(unpacked), f"{self.files.name} (--dry-run lists the sizes)")
        return sum(size for _, size in coming)

    def _get_archives(self, archives: list[RemoteFile], total: int) -> None:
        """Downloads and unpacks, several at a time."""
        with _bar("downloading", "B", total or None) as downloaded, _bar("unpacking", "B") as unpacked:

            def get(file: RemoteFile) -> None:
                self._ensure(file, _check_json if file.extract_to is None else check_zip, downloaded)
                if file.extract_to is not None:
                    self._unpack(file, unpacked)

            self._in_parallel([*self.indexes, *archives], get, lambda file: (self.outcome.files, file.path))

    def _get_images(self, images: ImageList, names: list[str]) -> None:
        """Downloads the images of a list that are not there."""
        index = None if self.base_url else self.root / images.index.path
        if index is not None and not index.is_file():
            return
        jobs = image_jobs(names, images.folder, index, self.base_url)
        in_a_row = 0  # images that nobody answered for; one more or less, between threads, does not matter
        with _bar(images.source, " images", len(jobs)) as progress:

            def get(job: ImageJob) -> None:
                nonlocal in_a_row
                adopt_other_suffix(self.root / job.path)
                is_here = (self.root / job.path).is_file()
                if job.url is None and not is_here:
                    raise DownloadError("", f"{images.index.path} has no URL for it")
                if in_a_row >= _SILENCES and not is_here:
                    raise DownloadError("", f"not tried: {_SILENCES} images before it could not be reached")
                try:
                    file = RemoteFile(job.path, job.url or "", images.source)
                    self._ensure(file, check_image, lambda count: None, keep_changed=False)
                except UnreachableError:
                    in_a_row += 1
                    raise
                in_a_row = 0
                progress(1)

            self._in_parallel(jobs, get, lambda job: (self.outcome.images, job.path))

    def _in_parallel(self, jobs: list, get: Callable, place: Callable) -> None:
        """Does the jobs; a download that fails is noted at its place, other errors stop all."""
        with ThreadPoolExecutor(self.workers) as pool:
            running = {pool.submit(get, job): job for job in jobs}
            try:
                for done in as_completed(running):
                    try:
                        done.result()
                    except (DownloadError, ArchiveError) as error:
                        reasons, name = place(running[done])
                        url = getattr(error, "url", "")
                        reasons[name] = f"{error} ({url})" if url else str(error)
            except BaseException:
                self.downloader.stopped.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _is_done(self, file: RemoteFile) -> bool:
        """Whether a file is there, or was and has been unpacked."""
        if (self.root / file.path).is_file():
            return True
        return file.extract_to is not None and self.lock.is_unpacked(file.path, self.root / file.extract_to)

    def _ensure(
        self,
        file: RemoteFile,
        check: Callable[[Path], None],
        progress: Callable[[int], None],
        *,
        keep_changed: bool = True,
    ) -> None:
        """Leaves a file whole and checked at its place.

        Args:
            file: Which.
            check: Raises if what has come is not of the file's kind.
            progress: Of the bytes.
            keep_changed: What comes and differs from its record is an error; else it counts as missing.

        Raises:
            DownloadError: It cannot be downloaded, or what comes is another file.
            ChangedFileError: It differs from its record.
        """
        target = self.root / file.path
        if target.is_file():
            self.lock.check(file.path, target, file.url)
            return
        if self._is_done(file):
            return
        part = _part(target)
        for attempt in range(1, _ATTEMPTS_AT_CONTENT + 1):
            self.downloader.fetch(file.url, part, progress)
            try:
                check(part)
                break
            except (ArchiveError, ValueError) as error:
                part.unlink()
                if attempt == _ATTEMPTS_AT_CONTENT:
                    raise DownloadError(file.url, f"damaged or not the file: {error}") from error
        try:
            self.lock.check(file.path, part, file.url)
        except ChangedFileError as error:
            if not keep_changed:
                part.unlink()
                raise DownloadError(file.url, f"another image than was recorded in {self.lock.path.name}") from error
            part.replace(target)  # so that the message's advice holds
            raise
        part.replace(target)
        if file.extract_to is not None:
            self.lock.save()

    def _unpack(self, file: RemoteFile, progress: Callable[[int], None]) -> None:
        """Unpacks an archive, unless it is known to be."""
        archive = self.root / file.path
        if not archive.is_file():
            return
        assert file.extract_to is not None
        folder = self.root / file.extract_to
        count = extract_zip(archive, folder, progress=progress, is_stopped=self.downloader.stopped.is_set)
        self.lock.update(file.path, {"extracted": count, "last": last_file(archive)})
        self.lock.save()
        if self.delete_archives:
            archive.unlink()


@contextmanager
def _bar(name: str, unit: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar, as the function that moves it."""
    with tqdm(desc=name, unit=unit, unit_scale=unit == "B", total=total, mininterval=1.0) as bar:
        lock = bar.get_lock()

        def move(count: int) -> None:
            with lock:
                bar.update(count)

        yield move


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _check_json(file: Path) -> None:
    """Raises ValueError unless a file begins and ends as JSON does; an error page or a cut file does not."""
    with file.open("rb") as opened:
        head = opened.read(64).lstrip()[:1]
        opened.seek(max(0, file.stat().st_size - 64))
        tail = opened.read().rstrip()[-1:]
    if head + tail not in (b"[]", b"{}"):
        raise ValueError("not JSON")
