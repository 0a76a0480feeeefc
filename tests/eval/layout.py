"""Small benchmarks in the files that the real ones are published in."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow
import pyarrow.parquet

SEED_TYPES = {"Scene Understanding": 1, "Instances Counting": 5, "Action Recognition": 10}
MMBENCH_FILES = {"mmbench": "mmbench_dev_20230712.tsv", "mmbench_cn": "mmbench_dev_cn_20231003.tsv"}


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), colour).save(buffer, "png")
    return buffer.getvalue()


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_gqa(root: Path, rows: Sequence[Any]) -> Path:
    questions = {str(number): row for number, row in enumerate(rows)}
    return write_json(root / "gqa" / "data" / "testdev_balanced_questions.json", questions)


def write_pope(root: Path, rows: Sequence[Any], others: Sequence[Any] | None = None) -> Path:
    for split in ("popular", "adversarial"):
        write_jsonl(root / "pope" / "coco" / f"coco_pope_{split}.json", rows if others is None else others)
    return write_jsonl(root / "pope" / "coco" / "coco_pope_random.json", rows)


def write_mme(root: Path, lines: Mapping[str, Sequence[str]]) -> Path:
    """Categories of the release that keep texts beside images (code_reasoning), or apart (celebrity)."""
    release = root / "MME" / "MME_Benchmark_release_version"
    for name, questions in lines.items():
        category, stem = name.split("/")
        apart = category == "celebrity"
        texts = release / category / ("questions_answers_YN" if apart else "")
        images = release / category / ("images" if apart else "")
        for folder in (texts, images):
            folder.mkdir(parents=True, exist_ok=True)
        (texts / f"{stem}.txt").write_text("\n".join(questions) + "\n", encoding="utf-8")
        (images / f"{stem}.png").write_bytes(png())
    return release


def write_textvqa(root: Path, rows: Sequence[Any], *, rosetta: bool = True) -> Path:
    folder = root / "textvqa"
    tokens = {row["image_id"]: row["ocr_tokens"] for row in rows}
    if rosetta:
        data = [{"image_id": image_id, "ocr_tokens": listed} for image_id, listed in tokens.items()]
        write_json(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": data})
    else:
        lines = [
            {"question_id": image_id, "text": f"What?\nReference OCR token: {', '.join(listed)}\nAnswer."}
            for image_id, listed in tokens.items()
        ]
        write_jsonl(folder / "llava_textvqa_val_v051_ocr.jsonl", lines)
    data = [{name: value for name, value in row.items() if name != "ocr_tokens"} for row in rows]
    return write_json(folder / "TextVQA_0.5.1_val.json", {"data": data})


def write_vqav2(root: Path, rows: Sequence[Any], answers: Sequence[Sequence[str]] = ()) -> Path:
    folder = root / "vqav2"
    annotations = [
        {
            "question_id": row["question_id"],
            "answer_type": "other",
            "multiple_choice_answer": given[0],
            "answers": [{"answer": answer, "answer_id": number} for number, answer in enumerate(given)],
        }
        for row, given in zip(rows, answers or [["no"] * 10] * len(rows), strict=True)
    ]
    write_json(folder / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    write_json(folder / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": list(rows)})
    return write_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": list(rows)})


def write_vizwiz(root: Path, rows: Sequence[Any]) -> Path:
    return write_json(root / "vizwiz" / ("val.json" if "answers" in rows[0] else "test.json"), rows)


def write_seed(root: Path, rows: Sequence[Any]) -> Path:
    return write_json(root / "seed_bench" / "SEED-Bench.json", {"questions": rows, "question_type": SEED_TYPES})


def write_scienceqa(root: Path, rows: Sequence[Any]) -> Path:
    folder = root / "scienceqa"
    problems = {str(n): {"subject": "natural science", "grade": "grade3"} | row for n, row in enumerate(rows)}
    write_json(folder / "pid_splits.json", {"test": list(problems)})
    return write_json(folder / "problems.json", problems | {"train": rows[0]})


def write_mmbench(root: Path, rows: Sequence[Mapping[str, Any]], name: str = "mmbench") -> Path:
    path = root / name / MMBENCH_FILES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    image = base64.b64encode(png()).decode()
    columns = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category", "split"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t")
        writer.writeheader()
        for row in rows:
            more = {"category": "colour", "l2-category": "coarse", "split": "dev"}
            writer.writerow(more | row | {"image": image})
    return path


def write_mmmu(root: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path = root / "mmmu" / "data" / "validation-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    full = [{f"image_{n}": None for n in range(1, 8)} | {"topic_difficulty": "Easy"} | dict(row) for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(full), path)
    return path


def write_mmvet(root: Path, rows: Sequence[Any]) -> Path:
    return write_json(root / "mm-vet" / "mm-vet.json", {f"v1_{number}": row for number, row in enumerate(rows)})


def write_llava_bench(root: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    folder = root / "llava-bench-in-the-wild"
    captions = {row["image"]: f"Caption of {row['image']}." for row in rows}
    write_jsonl(folder / "context.jsonl", [{"image": image, "caption": text} for image, text in captions.items()])
    references = [{"question_id": row["question_id"], "text": f"Reference {row['question_id']}."} for row in rows]
    write_jsonl(folder / "answers_gpt4.jsonl", references)
    return write_jsonl(folder / "questions.jsonl", rows)


def write_ocrbench(root: Path, rows: Sequence[Any]) -> Path:
    return write_json(root / "ocrbench" / "OCRBench.json", rows)


def write_chartqa(root: Path, human: Sequence[Any], augmented: Sequence[Any]) -> Path:
    write_json(root / "chartqa" / "test_augmented.json", augmented)
    return write_json(root / "chartqa" / "test_human.json", human)


def write_mmstar(root: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path = root / "mmstar" / "mmstar.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    more = {"image": png(), "meta_info": {"source": "MMBench", "split": "val", "image_path": "images/0.jpg"}}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([more | dict(row) for row in rows]), path)
    return path


def write_refcoco(root: Path, rows: Sequence[Any], name: str = "refcoco") -> Path:
    return write_jsonl(root / "refcoco" / f"{name}_val.jsonl", rows)
