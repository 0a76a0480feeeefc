"""Where benchmarks' data are, as the flags of a command line say; for programs that score what was answered before."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llava.eval.sources.parquet_source import ParquetSource
    from llava.eval.tasks import LoadedTask, Task

DATA_ROOT_VARIABLE = "LLAVA_EVAL_DATA"


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `--data-root` and `--data-source`."""
    parser.add_argument(
        "--data-root",
        type=Path,
        help=f"folder of the tasks' files (or {DATA_ROOT_VARIABLE}); default: the run's, else the task's own",
    )
    parser.add_argument(
        "--data-source",
        default="local",
        metavar="local|hub|FOLDER",
        help="benchmarks from --data-root, from the Hub, or from a folder of its parquet files (default: local)",
    )
    parser.add_argument(
        "--image-root",
        "--image-folder",
        type=Path,
        metavar="DIR",
        help="a further folder that images may be in; '/': all folders (default: only --data-root). Those of a file of "
        "your own are relative to it (default: to its folder)",
    )


@dataclass(frozen=True)
class DataPlace:
    """Where tasks' data come from.

    Attributes:
        root: Folder of the local layout; None: that of the results, else each task's own.
        source: Where tasks that it has are taken from, instead of `root`.
        image_root: Where images may lie, too; None: only in the tasks' own folder.
    """

    root: Path | None = None
    source: ParquetSource | None = None
    image_root: Path | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> DataPlace:
        """The place that the flags name.

        Raises:
            ValueError: `--data-source` names nothing.
        """
        from llava.eval.sources.parquet_source import ParquetSource

        environment = os.environ.get(DATA_ROOT_VARIABLE)
        root = args.data_root or (Path(environment) if environment else None)
        return cls(root, ParquetSource.parse(args.data_source), args.image_root)

    def check(self, tasks: Sequence[Task]) -> None:
        """Finds out before a large model is loaded, and others of the tasks are asked, what cannot be had.

        Raises:
            TaskDataError: A task's files are missing, or all pictures of a file of one's own.
        """
        from llava.eval.tasks import TaskDataError

        for task in tasks:
            loaded = self.load(task)
            images = [image for sample in loaded.samples for image in sample.images if isinstance(image, Path)]
            if task.own_file is not None and images and not any(image.is_file() for image in images):
                raise TaskDataError(f"{task.name}: not one picture is there ({images[0]}); --image-root names a folder")

    def load(self, task: Task, answered_from: str | None = None) -> LoadedTask:
        """A task's samples.

        Args:
            task: The benchmark.
            answered_from: The data root that a row of results names; taken where the flags say nothing.

        Raises:
            TaskDataError: Its files are missing, or a sample is not what it should be; the message says where the files
                are published.
        """
        return self.locate(task, answered_from)[0]

    def locate(
        self, task: Task, answered_from: str | None = None
    ) -> tuple[LoadedTask, Path, list[dict[str, str]] | None]:
        """A task's samples, their data root, and the datasets and revisions they are from (None: local files)."""
        from llava.eval.tasks import TaskDataError
        from llava.eval.tasks.loading import load_task

        try:
            if self.source is not None and self.source.has(task.name):
                root, data = self.source.root_for(task.name)
                return load_task(task, root, self.image_root), root, data
            known = Path(answered_from) if answered_from and Path(answered_from).is_dir() else task.default_data_root
            root = (self.root if task.own_file is None else self.image_root) or known
            return load_task(task, root, self.image_root), root, None
        except TaskDataError as error:
            published = f"; published at {', '.join(task.sources)}" if task.sources else ""
            raise TaskDataError(f"{error}{published}") from None
