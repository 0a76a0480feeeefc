"""The files of the embedded worlds: a JSON list of questions beside a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llava.eval.tasks.base import LoadedTask, Sample, TaskDataError
from llava.eval.tasks.local_files import collect, read_json

TINY_DATA_ROOT = Path("playground/tiny/data")


def load_tiny(
    data_root: Path, file_name: str, group_field: str, made_by: str = "python playground/tiny/make_data.py"
) -> LoadedTask:
    """Reads `{question_id, image, text, answer, kind}` rows; some may have `object_share` (`Task.object_share`).

    Args:
        data_root: Folder that holds the file and `images/`.
        file_name: The JSON file.
        group_field: The field that the score is broken down by.
        made_by: The command that makes the files, for the message.

    Raises:
        TaskDataError: The file is missing, is not a JSON list or has no usable row.
    """
    path = data_root / file_name

    def build(row: dict[str, Any]) -> Sample:
        return Sample(
            sample_id=str(row["question_id"]),
            prompt=row["text"],
            images=(data_root / "images" / row["image"],),
            answer=row["answer"],
            group=str(row.get(group_field, "")),
            details={"object_share": float(row["object_share"])} if "object_share" in row else {},
        )

    try:
        return collect(path, read_json(path, list), build)
    except TaskDataError as error:
        raise TaskDataError(f"{error}; make it with `{made_by}`") from None
