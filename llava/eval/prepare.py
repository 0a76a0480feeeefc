"""`python -m llava.eval.prepare gqa pope ...`: benchmarks' files into the local layout; run again, it goes on.

What a publisher offers for download comes from there, the rest (MME, MMMU, OCRBench, SEED-Bench) from the Hub. Videos
are not fetched: for those benchmarks it says where to get them, and checks what is there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import CommandParser, plain_errors

if TYPE_CHECKING:
    from llava.eval.sources.published import PublishedFiles

_SHOWN = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares benchmarks.

    Returns:
        0 if all that was named is complete, 1 if something is missing.

    Raises:
        SystemExit: Status 1 with a line that says what is wrong; 2 for wrong flags.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    from llava.eval.sources.published import PUBLISHED
    from llava.eval.sources.table import TABLES
    from llava.eval.sources.video_sets import VIDEO_SETS

    known = sorted({*TABLES, *VIDEO_SETS})
    if args.list:
        by_hand = dict.fromkeys(VIDEO_SETS, "questions from the publisher, videos by hand")
        by_hand |= {name: "by hand" for name, each in VIDEO_SETS.items() if each.questions is None}
        print(*(f"{n:22}{by_hand.get(n) or ('publisher' if n in PUBLISHED else 'Hub')}" for n in known), sep="\n")
        return 0
    names = sorted(TABLES) if args.tasks == ["all"] else list(dict.fromkeys(args.tasks))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(known)}" if unknown else "which?")
    if args.dry_run:
        return _print_plan(names, args)
    with plain_errors(goes_on=True):
        from llava.locks import alone_in

        with alone_in(args.root):
            return max([_prepare(name, args) for name in names])


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("llava.eval.prepare", __doc__)
    add = parser.add_argument
    add("tasks", nargs="*", metavar="TASK", help="names of benchmarks, or 'all', which leaves out those about videos")
    add("--list", action="store_true", help="name the benchmarks and where each comes from, and end")
    add("--root", type=Path, default=Path("playground/data/eval"), help="data root (default: %(default)s)")
    add(
        "--source",
        default="published",
        metavar="published|hub|FOLDER",
        help="the publishers' files, the Hub's tables, or a folder of those (default: published, the Hub for the rest)",
    )
    add("--dry-run", action="store_true", help="list what would be downloaded")
    add("--delete-archives", action="store_true", help="remove an archive once it is unpacked")
    add("--base-url", help="mirror that has each file at its path below the data root")
    add("--retries", type=int, default=5, help="attempts in a row without progress (default: %(default)s)")
    add("--timeout", type=float, default=30.0, help="seconds without a byte (default: %(default)s)")
    add("--retry-wait", type=float, default=1.0, help="seconds before the second attempt; doubled each time")
    return parser


def _published(name: str, args: argparse.Namespace) -> PublishedFiles | None:
    """What is fetched from a publisher or its mirror; None of a benchmark that comes from the Hub or by hand."""
    from llava.eval.sources.published import PUBLISHED
    from llava.eval.sources.video_sets import VIDEO_SETS

    if name in VIDEO_SETS:
        found = VIDEO_SETS[name].questions
    else:
        found = PUBLISHED.get(name) if args.source == "published" else None
    return found if found is None or args.base_url is None else found.moved(args.base_url)


def _print_plan(names: Sequence[str], args: argparse.Namespace) -> int:
    from llava.eval.sources.table import TABLES
    from llava.eval.sources.video_sets import VIDEO_SETS

    for name in names:
        if (published := _published(name, args)) is not None:
            for file in published.files:
                print(f"{name:22}{file.path:45}{file.url}")
        if name in VIDEO_SETS:
            print(f"{name:22}{VIDEO_SETS[name].videos:45}by hand: {VIDEO_SETS[name].where}")
        elif published is None:
            for table in TABLES[name][1]:
                where = " or ".join(f"{dataset} {config or ''}".rstrip() for dataset, config in table.places)
                print(f"{name:22}{table.split:45}{where}")
    return 0


def _prepare(name: str, args: argparse.Namespace) -> int:
    """Gets one benchmark and looks whether it is complete; 0 if it is."""
    from llava.data.prepare.archive import ArchiveError
    from llava.data.prepare.download import Downloader, DownloadError
    from llava.data.prepare.lock import LockFile
    from llava.eval.sources.fetch import Fetcher
    from llava.eval.sources.parquet_source import ParquetSource
    from llava.eval.sources.video_sets import VIDEO_SETS
    from llava.eval.tasks import TaskDataError

    published = _published(name, args)
    try:
        if published is not None:
            downloader = Downloader(retries=args.retries, timeout=args.timeout, wait=args.retry_wait)
            Fetcher(args.root, downloader, LockFile(args.root), args.delete_archives).get(published)
        elif name not in VIDEO_SETS:
            source = ParquetSource.parse("hub" if args.source == "published" else args.source)
            if source is None:
                raise ValueError("--source local: name published, hub or a folder")
            source.write_to(name, args.root)
        return _check(name, args.root)
    except (DownloadError, ArchiveError, TaskDataError) as error:
        url = getattr(error, "url", "")
        print(f"{name}: {f'{url}: ' if url else ''}{error}", file=sys.stderr)
        if name in VIDEO_SETS:
            _print_where(name, args.root)
        return 1


def _print_where(name: str, root: Path) -> None:
    """Where videos are had, and where they belong."""
    from llava.eval.sources.video_sets import VIDEO_SETS

    print(f"  {root / VIDEO_SETS[name].videos}: {VIDEO_SETS[name].where}", file=sys.stderr)


def _check(name: str, root: Path) -> int:
    """Loads the benchmark as a run does, and says what is missing."""
    from llava.eval.tasks import get_task
    from llava.eval.tasks.loading import load_task
    from llava.eval.tasks.video_files import missing_videos
    from llava.results.words import counted

    task = get_task(name)
    loaded = load_task(task, root)
    images = {image for sample in loaded.samples for image in sample.images if isinstance(image, Path)}
    missing = [str(image) for image in sorted(images) if not image.is_file()]
    absent = missing_videos(loaded.samples)
    lack = f", {counted(len(missing), 'image')} missing" if missing else ""
    if absent:
        lack += f", {len(absent)} of {counted(len({s.video for s in loaded.samples}), 'video')} missing"
    print(f"{name}: {counted(len(loaded.samples), 'question')}{lack}")
    for line in [*loaded.bad_rows, *missing, *absent][:_SHOWN]:
        print(f"  {line}", file=sys.stderr)
    if absent:
        _print_where(name, root)
    if note := task.size_note(loaded.samples):
        print(f"  {note}")
    return int(bool(missing or absent))


if __name__ == "__main__":
    sys.exit(main())
