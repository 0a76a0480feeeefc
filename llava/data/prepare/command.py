"""`python -m llava.data.prepare llava-665k --root playground/data`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.command_line import CommandParser, plain_errors, whole_number
from llava.data.prepare.catalog import DATASETS, DatasetFiles, llava_665k
from llava.data.prepare.download import Downloader, DownloadError
from llava.data.prepare.lock import LockFile
from llava.data.prepare.missing import is_complete, write_reduced, write_report
from llava.data.prepare.origin import REDUCED_SUFFIX
from llava.data.prepare.preparation import Preparation
from llava.data.records import count_sources, printable, source_table
from llava.locks import alone_in

_SHOWN = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares a data set.

    Returns:
        0 if everything that was asked for is there, or with `--drop-missing` only single images are not; 1 if something
        is missing.

    Raises:
        SystemExit: Status 1 with a line that says what is wrong; 2 for wrong flags.
    """
    arguments = _parser().parse_args(argv)
    if arguments.list or arguments.dataset is None:
        print("\n".join(f"{name:16}{make().summary}" for name, make in DATASETS.items()))
        return 0 if arguments.list else 2
    with plain_errors(goes_on=True):
        files = _files(arguments)
        preparation = Preparation(
            files,
            arguments.root,
            Downloader(retries=arguments.retries, timeout=arguments.timeout, wait=arguments.retry_wait),
            LockFile(arguments.root, verify=arguments.verify),
            workers=arguments.workers,
            base_url=arguments.base_url,
            delete_archives=arguments.delete_archives,
        )
        if arguments.dry_run:
            return _print_plan(preparation)
        try:
            with alone_in(arguments.root):
                return _prepare(preparation, drop_missing=arguments.drop_missing)
        except DownloadError as error:
            raise SystemExit(f"error: {error.url}: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("llava.data.prepare", __doc__)
    add = parser.add_argument
    add("dataset", nargs="?", choices=sorted(DATASETS), help="what to get")
    add("--list", action="store_true", help="name the data sets and end")
    add("--root", type=Path, default=Path("playground/data"), help="where to (default: %(default)s)")
    add("--only", help="image sets, separated by commas: coco,gqa,ocr_vqa,textvqa,vg; default: all")
    add("--ocr-vqa", choices=["urls", "zip"], default="urls", help="OCR-VQA from its own URLs, or an archive of others")
    add("--workers", type=whole_number(1), default=8, help="downloads at a time (default: %(default)s)")
    add("--dry-run", action="store_true", help="list files and sizes, download nothing")
    add("--drop-missing", action="store_true", help="write NAME.reduced.json, without entries whose images are missing")
    add("--delete-archives", action="store_true", help="remove an archive once it is unpacked")
    add("--verify", action="store_true", help="hash every file again, also those unchanged by their time")
    add("--base-url", help="mirror with the layout of a prepared root, single images included")
    add("--url", action="append", default=[], metavar="PATH=URL", help="where to get one file (see --dry-run)")
    add("--retries", type=int, default=5, help="attempts in a row without progress (default: %(default)s)")
    add("--timeout", type=float, default=30.0, help="seconds without a byte (default: %(default)s)")
    add("--retry-wait", type=float, default=1.0, help="seconds before the second attempt; doubled each time")
    return parser


def _files(arguments: argparse.Namespace) -> DatasetFiles:
    """What the flags ask for.

    Raises:
        ValueError: They name something that is not there.
    """
    make = DATASETS[arguments.dataset]
    files = make(ocr_vqa_archive=arguments.ocr_vqa == "zip") if make is llava_665k else make()
    urls = {}
    for text in arguments.url:
        path, equals, url = text.partition("=")
        if not equals:
            raise ValueError(f"--url {text}: must be PATH=URL, as in coco/train2017.zip=https://...")
        urls[path] = url
    files = files.moved(arguments.base_url, urls)
    return files if arguments.only is None else files.only(arguments.only.split(","))


def _print_plan(preparation: Preparation) -> int:
    files = preparation.files
    plan = preparation.plan([files.annotations, *files.archives, *preparation.indexes])
    for file, state, size in plan:
        amount = "size unknown" if size is None else f"{size / 1e9:.2f} GB"
        print(f"{file.path:40}{amount:>14}  {file.url}  {state}")
    for images in files.image_lists:
        print(f"{images.folder + '/*.jpg':40}{'one by one':>14}  as the annotations name them")
    print(f"{'known so far':40}{sum(size or 0 for _, _, size in plan) / 1e9:>11.2f} GB  and as much again, unpacked")
    return int(any(size is None and state not in ("present", "part", "absent") for _, state, size in plan))


def _prepare(preparation: Preparation, *, drop_missing: bool) -> int:
    """Does it, and tells what there is."""
    records = preparation.run()
    missing, failed = preparation.outcome.images, preparation.outcome.files
    annotations = preparation.annotations
    incomplete = [record for record in records if not is_complete(record, missing)]
    print(f"{annotations}: images in {preparation.image_folder}")
    print(source_table([("entries", count_sources(records)), ("incomplete", count_sources(incomplete))]))
    report = annotations.with_suffix(".missing.json")
    write_report(report, missing, failed)
    if failed or missing:
        print(f"missing: {len(failed)} files, {len(missing):,} images; {report} lists them", file=sys.stderr)
        for name, reason in [*failed.items(), *missing.items()][:_SHOWN]:
            print(printable(f"  {name}: {reason}"), file=sys.stderr)
    if drop_missing:
        reduced = annotations.with_suffix(REDUCED_SUFFIX)
        table = write_reduced(reduced, records, missing)
        print(f"{reduced}: entries whose images are all there\n{table}")
        return int(bool(failed))
    return int(bool(failed) or any(_was_asked_for(preparation, name) for name in missing))


def _was_asked_for(preparation: Preparation, image: str) -> bool:
    """Whether an image belongs to a set that `--only` leaves in."""
    path = Path(preparation.files.image_folder) / image
    folders = [file.extract_to for file in preparation.files.archives]
    folders += [images.folder for images in preparation.files.image_lists]
    return any(path.is_relative_to(folder) for folder in folders if folder is not None)
