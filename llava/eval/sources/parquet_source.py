"""`--data-source`: a benchmark's tables, written in the local layout once and read from there."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from llava.eval.sources.layout import WRITERS
from llava.eval.sources.parquet import TableFiles, in_folder, on_the_hub
from llava.eval.sources.table import TABLES
from llava.locks import only_one
from llava.plain_files import expanded

CACHE_VARIABLE = "LLAVA_EVAL_CACHE"
_DONE = "written.json"
_VERSION = 1  # of the writers: what another has written is written again


def default_cache() -> Path:
    """Where benchmarks are written."""
    return expanded(os.environ.get(CACHE_VARIABLE) or "~/.cache/llava-visionzip/eval")


@dataclass(frozen=True)
class ParquetSource:
    """Benchmarks as the Hub has them.

    Attributes:
        folder: A folder that holds datasets; None for the Hub itself.
        cache: Where they are written.
    """

    folder: Path | None
    cache: Path

    @classmethod
    def parse(cls, text: str) -> ParquetSource | None:
        """What `--data-source` means: None for `local`.

        Raises:
            ValueError: It is neither `local`, `hub`, nor a folder.
        """
        if text == "local":
            return None
        if text != "hub" and not Path(text).is_dir():
            raise ValueError(f"--data-source {text!r} is neither 'local', 'hub', nor a folder of parquet files")
        return cls(None if text == "hub" else Path(text), default_cache())

    def has(self, task: str) -> bool:
        """Whether a task has tables on the Hub; the embedded ones are only local."""
        return task in TABLES

    def root_for(self, task: str) -> tuple[Path, list[dict[str, str]]]:
        """Data root of a task in the local layout, and which datasets and revisions it is from.

        Raises:
            TaskDataError: The tables are missing, or have another schema.
        """
        writer, tables = self._tables(task)
        about = [{"dataset": table.dataset, "revision": table.revision} for table in tables]
        root = self.cache / f"{writer}-{_digest(tables)}"
        with only_one(root):
            done = root / _DONE
            if not done.exists():
                tqdm.write(f"{task}: writing {about[0]['dataset']} to {root}")
                WRITERS[writer](root, tables)
                done.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        return root, about

    def write_to(self, task: str, root: Path) -> None:
        """Writes a task's files below a data root.

        Raises:
            TaskDataError: The tables are missing, or have another schema.
        """
        writer, tables = self._tables(task)
        tqdm.write(f"{task}: writing {tables[0].dataset} to {root}")
        WRITERS[writer](root, tables)

    def _tables(self, task: str) -> tuple[str, list[TableFiles]]:
        writer, wanted = TABLES[task]
        return writer, [on_the_hub(table) if self.folder is None else in_folder(table, self.folder) for table in wanted]


def _digest(tables: list[TableFiles]) -> str:
    named = [(table.dataset, table.revision, [str(path) for path in table.files]) for table in tables]
    return hashlib.sha256(json.dumps([_VERSION, named]).encode()).hexdigest()[:12]
