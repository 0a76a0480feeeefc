"""Miniatures of the benchmarks with options: MMBench, ScienceQA, SEED-Bench, MMMU."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from benchmark_scenes import OPTIONS, Choice, Picture, Places, choose, write_table

from llava.eval.sources.layout import SEED_TYPES

KINDS = tuple(OPTIONS)
LETTERS = "ABCD"
ROTATION = 1_000_000
MMBENCH_FILES = {"en": "mmbench/mmbench_dev_20230712.tsv", "cn": "mmbench_cn/mmbench_dev_cn_20231003.tsv"}
MMBENCH_GROUPS = {
    "which": ("ocr", "finegrained_perception (instance-level)"),
    "colour": ("attribute_recognition", "finegrained_perception (instance-level)"),
    "count": ("object_localization", "finegrained_perception (instance-level)"),
    "where": ("spatial_relationship", "finegrained_perception (cross-instance)"),
}
CHINESE = {
    "which": "图中{place}角是哪个数字？",
    "colour": "图中{place}角的数字是什么颜色？",
    "count": "图中有几个数字？",
    "where": "数字{value}在哪里？",
}
SEED_KINDS = {
    "which": "Instance Identity",
    "colour": "Instance Attributes",
    "where": "Instance Location",
    "count": "Instances Counting",
}
SUBJECTS = ("Math", "Art", "History", "Physics")
MAX_IMAGES = 7


def mmbench(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """Every question in its four rotations, in English and in Chinese."""
    for language, name in MMBENCH_FILES.items():
        rows: list[dict[str, Any]] = []
        shown: list[Picture] = []
        for number in range(max(2, size // 4)):
            picture, kind = pictures[number % len(pictures)], KINDS[number % len(KINDS)]
            choice = choose(kind, picture.digits, rng)
            question = choice.text if language == "en" else in_chinese(kind, picture, choice)
            category, l2_category = MMBENCH_GROUPS[kind]
            common = {"question": question, "hint": None, "category": category, "split": "dev"}
            for turn in range(len(LETTERS)):
                options = (*choice.options[turn:], *choice.options[:turn])
                rotated = {"index": number + turn * ROTATION, **dict(zip(LETTERS, options, strict=True))}
                answer = LETTERS[(choice.right - turn) % len(LETTERS)]
                rows.append({**common, **rotated, "answer": answer, "l2-category": l2_category})
                shown.append(picture)
        pairs = list(zip(rows, shown, strict=True))
        places.text(name, tab_separated([row | {"image": as_text(picture)} for row, picture in pairs]))
        table = [
            row | {"image": picture.in_table(".jpg"), "source": "digits", "comment": "nan"} for row, picture in pairs
        ]
        for row in table:
            row |= {"hint": "nan", "L2-category": row.pop("l2-category")}
        places.table("MMBench", "dev", table, language)


def in_chinese(kind: str, picture: Picture, choice: Choice) -> str:
    """A question of the same kind in Chinese, about what has the right answer."""
    names = {"northwest": "左上", "northeast": "右上", "southwest": "左下", "southeast": "右下"}
    answer = choice.options[choice.right]
    asked = next(
        (digit for digit in picture.digits if answer in (str(digit.value), digit.colour, digit.place)),
        picture.digits[0],
    )
    return CHINESE[kind].format(place=names[asked.place], value=asked.value)


def as_text(picture: Picture) -> str:
    """A picture in base64."""
    return base64.b64encode(picture.encoded(".jpg")).decode()


def tab_separated(rows: Sequence[dict[str, Any]]) -> str:
    """A table as text."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def scienceqa(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """First the questions with a picture, then as many half as are told in words.

    The Hub's tables have no ids, so a question is known by its row there: the order makes those of both tables agree.
    """
    problems: dict[str, dict[str, Any]] = {}
    table = []
    for number in range(size):
        picture, pictured = pictures[number % len(pictures)], number < size * 2 // 3
        choice = choose(KINDS[number % len(KINDS)], picture.digits, rng)
        hint = "" if pictured else picture.told()
        asked = {"question": choice.text, "choices": list(choice.options), "answer": choice.right, "hint": hint}
        asked |= {"task": "closed choice", "grade": f"grade{number % 12 + 1}", "subject": "natural science"}
        asked |= {"topic": "physics", "category": "Digits", "skill": "Look", "lecture": "", "solution": ""}
        problems[str(number)] = {**asked, "image": "image.png" if pictured else None, "split": "test"}
        table.append({**asked, "image": picture.in_table(".png") if pictured else None})
        if pictured:
            places.content(f"scienceqa/images/test/{number}/image.png", picture.encoded(".png"))
    places.json("scienceqa/problems.json", problems)
    places.json("scienceqa/pid_splits.json", {"train": [], "val": [], "test": list(problems)})
    places.table("ScienceQA", "test", table, "ScienceQA-FULL")
    places.table("ScienceQA", "test", [row for row in table if row["image"]], "ScienceQA-IMG")


def seed_bench(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """Questions about pictures, and about films of which the middle frame is asked about."""
    types = {name: number for number, name in enumerate(SEED_TYPES, start=1)}
    questions, table = [], []
    for number in range(size):
        index = number % len(pictures)
        picture, is_film = pictures[index], number % 4 == 3
        kind = KINDS[(number // 4 + number) % len(KINDS)]
        choice = choose(kind, picture.digits, rng)
        question_type = types["Action Recognition" if is_film else SEED_KINDS[kind]]
        row = {"question_id": str(number), "question": choice.text, "question_type_id": question_type}
        row |= {f"choice_{letter.lower()}": text for letter, text in zip(LETTERS, choice.options, strict=True)}
        row |= {"answer": choice.letter, "data_type": "video" if is_film else "image"}
        row["data_id"] = f"v_{index:04d}.mp4" if is_film else f"{index:07d}_{number:07d}"
        frames = [picture]
        name = f"SEED-Bench-image/{row['data_id']}"
        if is_film:
            frames = [pictures[index - 1], picture, pictures[(index + 1) % len(pictures)]]
            name = f"SEED-Bench-video-image/{question_type}_{number}.png"
        questions.append(row)
        suffix = ".png" if is_film else ".jpg"
        table.append({**row, "image": [frame.in_table(suffix) for frame in frames]})
        places.content(f"seed_bench/{name}", picture.encoded(suffix))
    places.json("seed_bench/SEED-Bench.json", {"questions": questions, "question_type": types})
    places.table("SEED-Bench", "test", table)


def mmmu(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """Options about two pictures, options about one, and open questions, in turn."""
    rows = []
    for number in range(size):
        picture, subject = pictures[number % len(pictures)], SUBJECTS[number % len(SUBJECTS)]
        choice = choose(KINDS[number % len(KINDS)], picture.digits, rng)
        shown, question, options, answer = [picture], f"<image 1> {choice.text}", list(choice.options), choice.letter
        if number % 3 == 0:
            shown.append(pictures[(number + 1) % len(pictures)])
            options = ["<image 1>", "<image 2>", "Both", "None"]
            value = int(rng.integers(10))
            question = f"In which picture is there a {value}?"
            there = [any(digit.value == value for digit in picture.digits) for picture in shown]
            answer = LETTERS[[(True, False), (False, True), (True, True), (False, False)].index((there[0], there[1]))]
        elif number % 3 == 2:
            options, answer = [], choice.options[choice.right]
        row: dict[str, Any] = {"id": f"validation_{subject}_{number // len(SUBJECTS) + 1}", "question": question}
        row |= {"options": str(options), "answer": answer, "explanation": "", "topic_difficulty": "Easy"}
        row |= {"question_type": "multiple-choice" if options else "open", "img_type": "['Pictures']"}
        for at in range(MAX_IMAGES):
            row[f"image_{at + 1}"] = shown[at].in_table(".png") if at < len(shown) else None
        rows.append(row)
    write_table(places.local / "mmmu" / "data" / "validation-00000-of-00001.parquet", rows)
    places.table("MMMU", "validation", rows)
