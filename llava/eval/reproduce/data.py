"""The benchmarks of a plan: which are here, and how large the files are that are not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from llava.data.prepare.catalog import RemoteFile
from llava.data.prepare.download import Downloader, DownloadError
from llava.eval.reproduce.preflight import DataState
from llava.eval.sources.published import PUBLISHED
from llava.eval.tasks import TaskDataError, get_task
from llava.eval.tasks.loading import load_task

_TIMEOUT = 5.0  # seconds; a publisher that does not answer is not waited for


def why_missing(name: str, root: Path) -> str | None:
    """What lacks of a benchmark; None if it is whole."""
    try:
        loaded = load_task(get_task(name), root)
    except TaskDataError as error:
        return str(error)
    images = {image for sample in loaded.samples for image in sample.images if isinstance(image, Path)}
    absent = sorted(image for image in images if not image.is_file())
    return f"{name}: {len(absent)} images are missing, {absent[0]} first" if absent else None


@cache
def number_of_questions(name: str, root: Path) -> int:
    """Of a benchmark that is here; read once.

    Raises:
        TaskDataError: It is not.
    """
    return len(load_task(get_task(name), root).samples)


def look_at_data(tasks: Sequence[str], root: Path, *, ask_sizes: bool) -> DataState:
    """Which benchmarks are here, and how large the others are.

    Args:
        tasks: Benchmarks.
        root: Data root.
        ask_sizes: Whether publishers are asked.
    """
    missing = [name for name in tasks if why_missing(name, root) is not None]
    size, unknown = sizes_of(missing, root) if ask_sizes else (0, missing)
    questions = {name: number_of_questions(name, root) for name in tasks if name not in missing}
    return DataState(missing, size, unknown, questions)


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
