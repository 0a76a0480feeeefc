"""The benchmarks of a plan: which are here, and how large the files are that are not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from llava.data.prepare.catalog import RemoteFile
from llava.data.prepare.download import Downloader, DownloadError
from llava.eval.sources.published import PUBLISHED
from llava.eval.tasks import TaskDataError, get_task
from llava.eval.tasks.loading import load_task

_TIMEOUT = 5.0  # seconds; a publisher that does not answer is not waited for


def missing_tasks(tasks: Sequence[str], root: Path) -> list[str]:
    """Benchmarks whose files, or some of whose images, are not here."""
    return [name for name in tasks if why_missing(name, root) is not None]


def why_missing(name: str, root: Path) -> str | None:
    """What lacks of a benchmark; None if it is whole."""
    try:
        loaded = load_task(get_task(name), root)
    except TaskDataError as error:
        return str(error)
    images = {image for sample in loaded.samples for image in sample.images if isinstance(image, Path)}
    absent = sorted(image for image in images if not image.is_file())
    return f"{name}: {len(absent)} images are missing, {absent[0]} first" if absent else None


def number_of_questions(name: str, root: Path) -> int:
    """Of a benchmark that is here.

    Raises:
        TaskDataError: It is not.
    """
    return len(load_task(get_task(name), root).samples)


def sizes_of(tasks: Sequence[str], root: Path) -> tuple[int, list[str]]:
    """Bytes that benchmarks' publishers say their files have, each file once, and what could not be asked.

    Args:
        tasks: Benchmarks that are missing.
        root: Data root; files that lie there already do not count.
    """
    downloader, total = Downloader(retries=0, timeout=_TIMEOUT), 0
    unknown: list[str] = []
    silent: set[str] = set()
    files: dict[str, RemoteFile] = {}
    for name in tasks:
        if name not in PUBLISHED:
            unknown.append(f"{name} (from the Hub)")
            continue
        files |= {file.path: file for file in PUBLISHED[name].files}
    for file in files.values():
        host = urlsplit(file.url).netloc
        size = None
        if host not in silent and not (root / file.path).exists():
            try:
                size = downloader.size_of(file.url)
            except DownloadError:
                silent.add(host)
        if size is not None:
            total += size
        elif not (root / file.path).exists():
            unknown.append(file.path)
    return total, unknown
