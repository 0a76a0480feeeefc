"""Rows of Hub datasets, written in the files that the benchmarks themselves publish.

The columns that are read are those that lmms-eval's `utils.py` of each task reads; images are written byte by byte.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llava.eval.sources.parquet import Row, TableFiles
from llava.eval.tasks import TaskDataError
from llava.images.decoding import image_size

Writer = Callable[[Path, Sequence[TableFiles]], None]

# SEED-Bench.json has this table, the Hub's does not. It names the groups of the score, nothing else.
SEED_TYPES = (
    *("Scene Understanding", "Instance Identity", "Instance Attributes", "Instance Location", "Instances Counting"),
    *("Spatial Relation", "Instance Interaction", "Visual Reasoning", "Text Understanding"),
    *("Action Recognition", "Action Prediction", "Procedure Understanding"),
)
_COCO_NAME = re.compile(r"COCO_train2014_\d{12}")  # what follows is the number of the object
_TSV = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "split", "image")


def write_gqa(root: Path, tables: Sequence[TableFiles]) -> None:
    """`testdev_balanced_questions.json` and the images."""
    folder = root / "gqa" / "data"
    questions = {
        row["id"]: row for row in tables[0].rows("id", "imageId", "question", "answer", "types", without=["image"])
    }
    for row in tables[1].rows("id", "image"):
        _write_image(folder / "images" / f"{row['id']}.jpg", row["image"])
    _write_json(folder / "testdev_balanced_questions.json", questions)


def write_pope(root: Path, tables: Sequence[TableFiles]) -> None:
    """A file of lines a split, and the images."""
    splits: dict[str, list[Row]] = {}
    for row in tables[0].rows("question_id", "question", "answer", "image_source", "image", "category"):
        name = f"{row['image_source']}.jpg"
        _write_image(root / "pope" / "val2014" / name, row["image"])
        asked = {"image": name, "text": row["question"], "label": row["answer"]}
        splits.setdefault(row["category"], []).append({"question_id": _number(row["question_id"]), **asked})
    for split, rows in splits.items():
        _write_jsonl(root / "pope" / "coco" / f"coco_pope_{split}.json", rows)


def write_mme(root: Path, tables: Sequence[TableFiles]) -> None:
    """A text file an image, both in the category's folder."""
    lines: dict[Path, list[str]] = {}
    for row in tables[0].rows("question_id", "image", "question", "answer", "category"):
        image = root / "MME" / "MME_Benchmark_release_version" / row["category"] / Path(row["question_id"]).name
        _write_image(image, row["image"])
        lines.setdefault(image.with_suffix(".txt"), []).append(f"{row['question']}\t{row['answer']}\n")
    for path, asked in lines.items():
        _write(path, "".join(asked))


def write_mmbench(root: Path, tables: Sequence[TableFiles]) -> None:
    """The English table."""
    _write_tsv(root / "mmbench" / "mmbench_dev_20230712.tsv", tables[0])


def write_mmbench_cn(root: Path, tables: Sequence[TableFiles]) -> None:
    """The Chinese table."""
    _write_tsv(root / "mmbench_cn" / "mmbench_dev_cn_20231003.tsv", tables[0])


def _write_tsv(path: Path, table: TableFiles) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _TSV, delimiter="\t", extrasaction="ignore")
        writer.writeheader()
        for row in table.rows("index", "question", "hint", "answer", "A", "B", "C", "D", "category", "image"):
            more = {"l2-category": row.get("L2-category", row.get("l2-category"))}
            writer.writerow(row | more | {"image": base64.b64encode(_content(row["image"])).decode()})
    os.replace(part, path)


def write_scienceqa(root: Path, tables: Sequence[TableFiles]) -> None:
    """Problems by number of the row: the Hub's table has no ids."""
    folder, problems = root / "scienceqa", {}
    wanted = ("image", "question", "choices", "answer", "hint", "subject", "grade")
    for number, row in enumerate(tables[0].rows(*wanted)):
        name = "image.png" if row["image"] else None
        if name:
            _write_image(folder / "images" / "test" / str(number) / name, row["image"])
        problems[str(number)] = row | {"image": name}
    _write_json(folder / "pid_splits.json", {"test": list(problems)})
    _write_json(folder / "problems.json", problems)


def write_textvqa(root: Path, tables: Sequence[TableFiles]) -> None:
    """Questions, OCR tokens and images."""
    folder, questions, tokens = root / "textvqa", [], {}
    for row in tables[0].rows("question_id", "image_id", "question", "answers", "ocr_tokens", "image"):
        _write_image(folder / "train_images" / f"{row['image_id']}.jpg", row.pop("image"))
        tokens[row["image_id"]] = row.pop("ocr_tokens")
        questions.append(row)
    data = [{"image_id": image_id, "ocr_tokens": listed} for image_id, listed in tokens.items()]
    _write_json(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": data})
    _write_json(folder / "TextVQA_0.5.1_val.json", {"data": questions})


def write_seed(root: Path, tables: Sequence[TableFiles]) -> None:
    """Questions, images, and of a video the middle one of the frames that the table has."""
    folder, questions = root / "seed_bench", []
    names = ("question_id", "question_type_id", "question", "answer", "data_type", "data_id", "image")
    for row in tables[0].rows(*names, *(f"choice_{letter}" for letter in "abcd")):
        frames = row.pop("image") or [None]
        if row["data_type"] == "video":
            path = folder / "SEED-Bench-video-image" / f"{row['question_type_id']}_{row['question_id']}.png"
        else:
            path = folder / "SEED-Bench-image" / row["data_id"]
        _write_image(path, frames[len(frames) // 2])
        questions.append(row)
    types = {name: number for number, name in enumerate(SEED_TYPES, start=1)}
    _write_json(folder / "SEED-Bench.json", {"questions": questions, "question_type": types})


def write_mmmu(root: Path, tables: Sequence[TableFiles]) -> None:
    """Links to the parquet files, which is what the task reads."""
    for number, path in enumerate(tables[0].files):
        _link(root / "mmmu" / f"{number:02}-{path.parent.name}" / f"validation-{path.stem}.parquet", path)


def write_mmstar(root: Path, tables: Sequence[TableFiles]) -> None:
    """A link to the authors' parquet file, which is what the task reads."""
    _link(root / "mmstar" / "mmstar.parquet", tables[0].files[0])


def write_ocrbench(root: Path, tables: Sequence[TableFiles]) -> None:
    """Questions and images; a question's id is its row's number, an image's name says what it holds."""
    folder, questions = root / "ocrbench", []
    for number, row in enumerate(tables[0].rows("dataset", "question", "question_type", "answer", "image")):
        asked = {"dataset_name": row["dataset"], "id": number, "question": row["question"], "answers": row["answer"]}
        name = f"{row['dataset']}/{content_name(row['image'])}"
        _write_image(folder / "OCRBench_Images" / name, row["image"])
        questions.append({**asked, "image_path": name, "type": row["question_type"]})
    _write_json(folder / "OCRBench.json", questions)


def write_chartqa(root: Path, tables: Sequence[TableFiles]) -> None:
    """A file of questions a split, and the images; an image's name says what it holds."""
    folder = root / "chartqa"
    splits: dict[str, list[Row]] = {"human_test": [], "augmented_test": []}
    for row in tables[0].rows("type", "question", "answer", "image"):
        if row["type"] not in splits:
            raise TaskDataError(f"{tables[0].dataset}: type {row['type']!r} is none of {', '.join(splits)}")
        name = content_name(row["image"])
        _write_image(folder / "png" / name, row["image"])
        asked = {"imgname": name, "query": row["question"], "label": row["answer"]}
        splits[row["type"]].append(asked)
    for split, rows in splits.items():
        _write_json(folder / f"test_{split.removesuffix('_test')}.json", rows)


def write_refcoco(root: Path, tables: Sequence[TableFiles], name: str) -> None:
    """A line a phrase, and the images; the table has a row an object, its phrases in a list."""
    lines = []
    for row in tables[0].rows("answer", "bbox", "file_name", "image"):
        picture = _COCO_NAME.match(Path(row["file_name"]).name)
        image = f"{picture[0]}.jpg" if picture else Path(row["file_name"]).name
        _write_image(root / "refcoco" / "train2014" / image, row["image"])
        try:
            width, height = image_size(_content(row["image"]))
        except ValueError:
            width = height = 0  # the task names the row
        x, y, right, down = row["bbox"]
        about = {"image": image, "bbox": [x, y, x + right, y + down], "width": width, "height": height}
        lines += [{**about, "sent": phrase} for phrase in row["answer"]]
    _write_jsonl(root / "refcoco" / name, lines)


def write_vqav2_val(root: Path, tables: Sequence[TableFiles]) -> None:
    """Questions, annotations and images of val."""
    folder, questions, annotations = root / "vqav2", [], []
    names = ("question_id", "image_id", "question", "answers", "answer_type", "multiple_choice_answer", "image")
    for row in tables[0].rows(*names):
        _write_image(folder / "val2014" / f"COCO_val2014_{int(row['image_id']):012d}.jpg", row["image"])
        questions.append(_vqa_question(row))
        kept = ("answers", "answer_type", "multiple_choice_answer")
        annotations.append({"question_id": _number(row["question_id"]), **{name: row[name] for name in kept}})
    _write_json(folder / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    _write_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})


def write_vqav2_testdev(root: Path, tables: Sequence[TableFiles]) -> None:
    """Questions and images of test-dev."""
    folder, questions = root / "vqav2", []
    for row in tables[0].rows("question_id", "image_id", "question", "image"):
        _write_image(folder / "test2015" / f"COCO_test2015_{int(row['image_id']):012d}.jpg", row["image"])
        questions.append(_vqa_question(row))
    _write_json(folder / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": questions})


def write_vizwiz(root: Path, tables: Sequence[TableFiles]) -> None:
    """Questions and images of test."""
    rows = [_vizwiz_row(root, "test", row) for row in tables[0].rows("question_id", "question", "image")]
    _write_json(root / "vizwiz" / "test.json", rows)


def write_vizwiz_val(root: Path, tables: Sequence[TableFiles]) -> None:
    """Questions, answers and images of val."""
    questions = []
    for row in tables[0].rows("question_id", "question", "answers", "category", "image"):
        answers = [{"answer": answer} for answer in row["answers"]]
        questions.append(_vizwiz_row(root, "val", row) | {"answers": answers, "answer_type": row["category"] or ""})
    _write_json(root / "vizwiz" / "val.json", questions)


def write_mmvet(root: Path, tables: Sequence[TableFiles]) -> None:
    """Questions and images."""
    folder, questions = root / "mm-vet", {}
    for row in tables[0].rows("question_id", "question", "answer", "capability", "image"):
        capability = row["capability"]
        listed = [part.strip() for part in capability.split(",")] if isinstance(capability, str) else list(capability)
        name = f"{row['question_id']}.png"
        _write_image(folder / "images" / name, row["image"])
        asked = {"imagename": name, "question": row["question"], "answer": row["answer"]}
        questions[row["question_id"]] = {**asked, "capability": listed}
    _write_json(folder / "mm-vet.json", questions)


def write_llava_bench(root: Path, tables: Sequence[TableFiles]) -> None:
    """Questions, captions, GPT-4's answers and images."""
    folder, questions, references = root / "llava-bench-in-the-wild", [], []
    captions: dict[str, str] = {}
    names = ("question_id", "question", "image", "caption", "gpt_answer", "category", "image_id")
    for row in tables[0].rows(*names):
        name = row["image_id"] if Path(row["image_id"]).suffix else f"{row['image_id']}.jpg"
        number = _number(row["question_id"])
        _write_image(folder / "images" / name, row["image"])
        captions[name] = row["caption"]
        references.append({"question_id": number, "text": row["gpt_answer"]})
        asked = {"category": row["category"], "text": row["question"]}
        questions.append({"question_id": number, "image": name, **asked})
    _write_jsonl(folder / "context.jsonl", [{"image": name, "caption": text} for name, text in captions.items()])
    _write_jsonl(folder / "answers_gpt4.jsonl", references)
    _write_jsonl(folder / "questions.jsonl", questions)


WRITERS: dict[str, Writer] = {
    "chartqa": write_chartqa,
    "gqa": write_gqa,
    "llava_bench": write_llava_bench,
    "mmbench": write_mmbench,
    "mmbench_cn": write_mmbench_cn,
    "mme": write_mme,
    "mmmu": write_mmmu,
    "mmstar": write_mmstar,
    "mmvet": write_mmvet,
    "ocrbench": write_ocrbench,
    "pope": write_pope,
    "refcoco": partial(write_refcoco, name="refcoco_val.jsonl"),
    "refcoco_plus": partial(write_refcoco, name="refcoco+_val.jsonl"),
    "refcocog": partial(write_refcoco, name="refcocog_val.jsonl"),
    "scienceqa": write_scienceqa,
    "seed": write_seed,
    "textvqa": write_textvqa,
    "vizwiz": write_vizwiz,
    "vizwiz_val": write_vizwiz_val,
    "vqav2_testdev": write_vqav2_testdev,
    "vqav2_val": write_vqav2_val,
}


def _vqa_question(row: Row) -> Row:
    return {"question_id": _number(row["question_id"]), "image_id": int(row["image_id"]), "question": row["question"]}


def _vizwiz_row(root: Path, split: str, row: Row) -> Row:
    name = f"{str(row['question_id']).removesuffix('.jpg')}.jpg"
    _write_image(root / "vizwiz" / split / name, row["image"])
    return {"image": name, "question": row["question"]}


def _number(value: Any) -> Any:
    """An id as the published files have it: a number if it is one."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


def _content(image: Any) -> bytes:
    """The encoded bytes of an image; none of an empty one, which the evaluation then reports as unreadable."""
    return (image or {}).get("bytes") or b""


def content_name(image: Any) -> str:
    """A name for an image that has none: rows with the same image share it."""
    return f"{hashlib.sha256(_content(image)).hexdigest()[:16]}.png"


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve())


def _write_image(path: Path, image: Any) -> None:
    """Writes an image unless it is there: several rows may have the same."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(_content(image))
        os.replace(part, path)


def _write_json(path: Path, content: Any) -> None:
    _write(path, json.dumps(content, ensure_ascii=False))


def _write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
