"""Miniatures of the benchmarks beyond the paper's: OCRBench, ChartQA, MMStar, RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from benchmark_scenes import OPTIONS, Picture, Places, choose, write_table
from questions import ask
from scenes import QUADRANTS

from llava.eval.metrics.mmstar import CATEGORIES
from llava.eval.sources.layout import content_name

KINDS = tuple(OPTIONS)
OCR_TYPES = {
    "Digit String Recognition": "ORAND",
    "Scene Text-centric VQA": "STVQA",
    "Key Information Extraction": "FUNSD",
}
REFCOCO_TABLES = {"refcoco": "RefCOCO", "refcoco+": "RefCOCOplus", "refcocog": "RefCOCOg"}


def ocrbench(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """Which digit is where, in three of the ten types."""
    questions, table = [], []
    for number in range(size):
        picture = pictures[number % len(pictures)]
        kind, dataset = list(OCR_TYPES.items())[number % len(OCR_TYPES)]
        question, shown = ask("which", picture.digits, rng), picture.in_table(".png")
        name = f"{dataset}/{content_name(shown)}"
        asked = {"question": question.text, "answers": [question.answer], "type": kind}
        questions.append({"dataset_name": dataset, "id": number, "image_path": name, **asked})
        more = {"question_type": kind, "answer": [question.answer], "image": shown}
        table.append({"dataset": dataset, "question": question.text, **more})
        places.content(f"ocrbench/OCRBench_Images/{name}", shown["bytes"])
    places.json("ocrbench/OCRBench.json", questions)
    places.table("OCRBench", "test", table)


def chartqa(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """Half the questions in either split; many answers are numbers."""
    table = []
    for split in ("human", "augmented"):
        rows: list[dict[str, Any]] = []
        for number in range(size // 2):
            picture = pictures[number % len(pictures)]
            question, shown = (
                ask(("count", "which", "colour")[number % 3], picture.digits, rng),
                picture.in_table(".png"),
            )
            name = content_name(shown)
            rows.append({"imgname": name, "query": question.text, "label": question.answer})
            asked = {"question": question.text, "answer": question.answer, "image": shown}
            table.append({"type": f"{split}_test", **asked})
            places.content(f"chartqa/png/{name}", shown["bytes"])
        places.json(f"chartqa/test_{split}.json", rows)
    places.table("ChartQA", "test", table)


def mmstar(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """Questions with their options in the text, in the six categories in turn."""
    rows = []
    for number in range(size):
        picture = pictures[number % len(pictures)]
        choice = choose(KINDS[number % len(KINDS)], picture.digits, rng)
        listed = ", ".join(f"{letter}: {option}" for letter, option in zip("ABCD", choice.options, strict=True))
        row: dict[str, Any] = {"index": number, "question": f"{choice.text}\nOptions: {listed}"}
        row |= {"image": picture.encoded(".jpg"), "answer": choice.letter}
        row |= {"category": CATEGORIES[number % len(CATEGORIES)], "l2_category": choice.kind}
        rows.append(row | {"meta_info": {"source": "digits", "split": "val", "image_path": f"{number}.jpg"}})
    write_table(places.local / "mmstar" / "mmstar.parquet", rows)
    if places.hub is not None:
        write_table(places.hub / "MMStar" / "mmstar.parquet", rows)


def refcoco(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """Which quadrant is meant, by two phrases a digit."""
    for name, dataset in REFCOCO_TABLES.items():
        lines, table = [], []
        for number in range(size // 2):
            index = number % len(pictures)
            picture, source = pictures[index], f"COCO_train2014_{index + 1:012d}"
            digit = picture.digits[int(rng.integers(len(picture.digits)))]
            side = picture.image.width // 2
            down, right = divmod(QUADRANTS.index(digit.place), 2)
            x, y = float(right * side), float(down * side)
            phrases = [f"the {digit.value}", f"{digit.colour} digit in the {digit.place}"]
            about = {"image": f"{source}.jpg", "bbox": [x, y, x + side, y + side]}
            about |= {"width": picture.image.width, "height": picture.image.height}
            lines += [{**about, "sent": phrase} for phrase in phrases]
            row = {"question_id": str(number), "answer": phrases, "bbox": [x, y, float(side), float(side)]}
            table.append({**row, "file_name": f"{source}_{number}.jpg", "image": picture.in_table(".jpg")})
            places.content(f"refcoco/train2014/{source}.jpg", picture.encoded(".jpg"))
        places.lines(f"refcoco/{name}_val.jsonl", lines)
        places.table(dataset, "val", table)
