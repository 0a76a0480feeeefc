"""The files of the embedded digit scenes: a JSON list of questions beside a folder of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llava.eval.tasks.base import LoadedTask, Sample, TaskDataError

TINY_DATA_ROOT = Path("playground/tiny/data")
_HOW_TO_MAKE = "make the data with `python playground/tiny/make_data.py`, or name its folder with --data-root"


def load_tiny(data_root: Path, file_name: str, group_field: str) -> LoadedTask:
    """Reads `{question_id, image, text, answer, kind}` rows.

    Args:
        data_root: Folder that holds the file and `images/`.
        file_name: The JSON file.
        group_field: The field that the score is broken down by.

    Returns:
        The samples; a row that lacks a field or repeats an id is left out and named.

    Raises:
        TaskDataError: The file is missing or is not a JSON list.
    """
    path = data_root / file_name
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TaskDataError(f"{path} does not exist; {_HOW_TO_MAKE}") from None
    except ValueError as error:
        raise TaskDataError(f"{path} is not JSON ({error}); {_HOW_TO_MAKE}") from None
    if not isinstance(rows, list):
        raise TaskDataError(f"{path} holds a {type(rows).__name__}, not a list of questions; {_HOW_TO_MAKE}")
    samples: dict[str, Sample] = {}
    bad_rows = []
    for number, row in enumerate(rows):
        try:
            sample = _sample(row, data_root / "images", group_field)
        except (KeyError, TypeError) as error:
            bad_rows.append(f"{path} row {number}: missing or wrong field {error}")
            continue
        if sample.sample_id in samples:
            bad_rows.append(f"{path} row {number}: question_id {sample.sample_id!r} is there twice")
            continue
        samples[sample.sample_id] = sample
    return LoadedTask(list(samples.values()), bad_rows)


def _sample(row: dict[str, Any], images: Path, group_field: str) -> Sample:
    for name in ("image", "text", "answer"):
        if not isinstance(row[name], str):
            raise TypeError(f"{name!r} = {row[name]!r} is not a string")
    return Sample(
        sample_id=str(row["question_id"]),
        prompt=row["text"],
        images=(images / row["image"],),
        answer=row["answer"],
        group=str(row.get(group_field, "")),
    )
