"""Small files of the benchmarks about videos, as their publishers lay them out. The clips are a few bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from llava.eval.metrics.mvbench import TASKS
from llava.eval.tasks.mvbench import FOLDERS
from tests.eval.layout import write_json

ZERO_SHOT = {  # folder, folder of the clips, what stands before a clip's name
    "msvd_qa": ("MSVD_Zero_Shot_QA", "videos", ""),
    "msrvtt_qa": ("MSRVTT_Zero_Shot_QA", "videos/all", ""),
    "tgif_qa": ("TGIF_Zero_Shot_QA", "mp4", ""),
    "activitynet_qa": ("Activitynet_Zero_Shot_QA", "all_test", "v_"),
}


def write_clip(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not decoded here")
    return path


def write_zero_shot(root: Path, task: str, questions: Sequence[Any], answers: Sequence[Any], clips: str = "") -> Path:
    """Questions, answers, and an MP4 for each name in `clips`."""
    name, videos, prefix = ZERO_SHOT[task]
    folder = root / "GPT_Zero_Shot_QA" / name
    write_json(folder / "test_q.json", questions)
    write_json(folder / "test_a.json", answers)
    for clip in clips.split():
        write_clip(folder / videos / f"{prefix}{clip}.mp4")
    return folder


def qa_rows(*pairs: tuple[str, str], kind: int | None = None) -> tuple[list[Any], list[Any]]:
    """Rows of the two files, a clip a question: `c0`, `c1`..."""
    asked = [
        {"video_name": f"c{number}", "question": question, "question_id": f"v_c{number}_1"}
        for number, (question, _) in enumerate(pairs)
    ]
    given = [{"answer": answer, "question_id": f"v_c{number}_1"} for number, (_, answer) in enumerate(pairs)]
    return asked, [row | ({} if kind is None else {"type": kind}) for row in given]


def write_mvbench(root: Path, rows: dict[str, list[Any]]) -> Path:
    """All 20 files, those that `rows` does not name with one question each."""
    usual = {"video": "a.mp4", "question": "What moves?", "candidates": ["cup", "ball"], "answer": "ball"}
    for task in TASKS:
        write_json(root / "mvbench" / "json" / f"{task}.json", rows.get(task, [usual]))
        write_clip(root / "mvbench" / FOLDERS[task] / "a.mp4")
    return root / "mvbench"


def write_egoschema(root: Path, rows: Sequence[Any], answers: dict[str, int], clips: str = "") -> Path:
    folder = root / "egoschema"
    write_json(folder / "questions.json", rows)
    write_json(folder / "subset_answers.json", answers)
    for clip in clips.split():
        write_clip(folder / "videos" / f"{clip}.mp4")
    return folder


def ego_row(uid: str, **more: Any) -> dict[str, Any]:
    options = {f"option {number}": text for number, text in enumerate(("x", "y", "z", "u", "v"))}
    return {"q_uid": uid, "google_drive_id": "-", "question": "What is done?", **options} | more


def write_videomme(root: Path, rows: Sequence[Any], clips: str = "") -> Path:
    folder = root / "videomme"
    (folder / "videomme").mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(list(rows))
    pyarrow.parquet.write_table(table, folder / "videomme" / "test-00000-of-00001.parquet")
    for clip in clips.split():
        write_clip(folder / "data" / f"{clip}.mp4")
    return folder


def mme_row(number: int, **more: Any) -> dict[str, Any]:
    about = {"duration": "short", "domain": "Knowledge", "sub_category": "Law", "task_type": "Counting Problem"}
    options = ["A. x.", "B. y.", "C. z.", "D. u."]
    row = {"video_id": f"{number:03}", "videoID": f"yt{number}", "question_id": f"{number:03}-1", "url": "-"}
    return row | about | {"question": "What is it?", "options": options, "answer": "B"} | more
