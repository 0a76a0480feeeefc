"""Files that benchmarks' servers and tools take: EvalAI (VQAv2, VizWiz), MMBench, SEED-Bench, MM-Vet, OCRBench, MMStar.

Formats are those that LLaVA's `scripts/convert_*_for_submission.py` write; OCRBench's is that of its own scripts, and
MMStar's that of the example in its `eval/submits/`. Each file is checked before it is written,
and written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.eval.metrics.answer_text import evalai_answer
from llava.eval.metrics.seed import published_id
from llava.eval.whole_files import write_whole
from llava.eval.xlsx import workbook

MMBENCH_COLUMNS = ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split")
MMSTAR_COLUMNS = ("index", "question", "answer", "category", "l2_category", "bench", "prediction")


def write_vqa_submission(path: Path, question_ids: Sequence[int], answers: Mapping[int, str]) -> Path:
    """Writes [{question_id, answer}] for VQAv2.

    Args:
        path: The file.
        question_ids: Every question that the server wants, in order.
        answers: What the model said, by question; a question without one gets an empty answer.

    Raises:
        ValueError: A question is there twice, or an answer belongs to none of them.
    """
    _check_ids(path, question_ids, answers)
    rows = [
        {"question_id": key, "answer": evalai_answer(answers[key]) if key in answers else ""} for key in question_ids
    ]
    return write_whole(path, json.dumps(rows))


def write_vizwiz_submission(path: Path, images: Sequence[str], answers: Mapping[str, str]) -> Path:
    """Writes [{image, answer}] for VizWiz.

    Args:
        path: The file.
        images: Every image of the split, in order.
        answers: What the model said, by image.

    Raises:
        ValueError: An image is there twice or has no answer, or an answer belongs to none of them.
    """
    _check_ids(path, images, answers, all_of="images")
    rows = [{"image": image, "answer": evalai_answer(answers[image])} for image in images]
    return write_whole(path, json.dumps(rows))


def write_seed_submission(path: Path, question_ids: Sequence[str], answers: Mapping[str, str]) -> Path:
    """Writes a line {question_id, prediction} a question for SEED-Bench's leaderboard.

    Args:
        path: The file.
        question_ids: Every question, in order, as `unique_ids` names them; the file gets the published ids.
        answers: What the model said, by the same ids.

    Raises:
        ValueError: A question is there twice or has no answer, or an answer belongs to none of them.
    """
    _check_ids(path, question_ids, answers, all_of="questions")
    lines = [json.dumps({"question_id": published_id(key), "prediction": answers[key]}) + "\n" for key in question_ids]
    return write_whole(path, "".join(lines))


def write_mmvet_results(path: Path, answers: Mapping[str, str]) -> Path:
    """Writes {v1_<number>: text} as MM-Vet's evaluator reads it.

    Raises:
        ValueError: An id is not of this form.
    """
    wrong = [key for key in answers if not (key.startswith("v1_") and key.removeprefix("v1_").isdigit())]
    if wrong:
        raise ValueError(f"{path}: MM-Vet's ids are v1_<number>, got {wrong[0]!r}")
    return write_whole(path, json.dumps(dict(answers)))


def write_mmbench_submission(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes MMBench's table, one sheet of an .xlsx workbook.

    Args:
        path: The file.
        rows: A row a question, rotations included, with `MMBENCH_COLUMNS`; what a row lacks is an empty cell.

    Raises:
        ValueError: A row has no index, or an index is there twice.
    """
    return _write_table(path, MMBENCH_COLUMNS, rows)


def write_mmstar_submission(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes MMStar's table, one sheet of an .xlsx workbook.

    Args:
        path: The file.
        rows: A row a question, with `MMSTAR_COLUMNS`.

    Raises:
        ValueError: A row has no index, or an index is there twice.
    """
    return _write_table(path, MMSTAR_COLUMNS, rows)


def write_ocrbench_results(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Writes the rows of OCRBench.json, each with what the model said as `predict`, as its `example.py` reads them.

    Args:
        path: The file.
        rows: The rows; their `id` may be a text here and is a number there.
    """
    return write_whole(path, json.dumps([{**row, "id": int(row["id"])} for row in rows], ensure_ascii=False))


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    indices = [row.get("index") for row in rows]
    if None in indices:
        raise ValueError(f"{path}: row {indices.index(None)} has no index")
    _check_ids(path, indices, {})
    cells = ([row.get(name) for name in columns] for row in rows)
    return write_whole(path, workbook([columns, *cells]))


def _check_ids(path: Path, wanted: Sequence[Any], answers: Mapping[Any, str], all_of: str | None = None) -> None:
    """Raises a ValueError if ids are there twice or answers belong to none; or, of `all_of`, if some have no answer."""
    known = set()
    for key in wanted:
        if key in known:
            raise ValueError(f"{path}: id {key!r} is there twice")
        known.add(key)
    foreign = next((key for key in answers if key not in known), None)
    if foreign is not None:
        raise ValueError(f"{path}: the answer to {foreign!r} belongs to no question of the split")
    missing = [key for key in wanted if key not in answers]
    if missing and all_of is not None:
        raise ValueError(f"{path}: {len(missing)} of {len(wanted)} {all_of} have no answer, the first is {missing[0]}")
