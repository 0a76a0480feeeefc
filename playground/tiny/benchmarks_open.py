"""Miniatures of the benchmarks with short answers: GQA, POPE, MME, VQAv2, TextVQA, VizWiz."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from benchmark_scenes import Picture, Places, yes_and_no
from make_data import SPLITS
from questions import KINDS, Digit, Question, ask
from scenes import COLOUR_NAMES, QUADRANTS

ANNOTATORS = 10
GQA_TYPES = {
    "which": ("query", "obj"),
    "colour": ("query", "attr"),
    "count": ("query", "global"),
    "exist": ("verify", "obj"),
    "where": ("query", "rel"),
}
ANSWER_TYPES = {"which": "number", "count": "number", "exist": "yes/no", "colour": "other", "where": "other"}
MME_ASKED_FOR = "Please answer yes or no."
# Each yields a statement that holds and one that does not; MME keeps the texts of some categories in a folder apart.
MME_BESIDE = ("existence", "count", "position", "color", "OCR", "numerical_calculation")
MME_APART = ("scene",)


def in_turn(
    pictures: Sequence[Picture], size: int, rng: np.random.Generator
) -> list[tuple[int, int, Picture, Question]]:
    """Asks `size` questions, pictures and kinds in turn: picture's number, question's number there, both."""
    rows = []
    for number in range(size):
        index, again = number % len(pictures), number // len(pictures)
        kind = KINDS[(number + again) % len(KINDS)]
        rows.append((index, again, pictures[index], ask(kind, pictures[index].digits, rng)))
    return rows


def gqa(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """Questions of all kinds, by id."""
    questions: dict[str, dict[str, Any]] = {}
    used = {}
    for number, (index, _, picture, question) in enumerate(in_turn(pictures, size, rng)):
        structural, semantic = GQA_TYPES[question.kind]
        types = {"structural": structural, "semantic": semantic, "detailed": question.kind}
        asked = {"question": question.text, "answer": question.answer, "imageId": f"n{index}", "types": types}
        questions[f"20{number:06d}"] = {**asked, "isBalanced": True, "fullAnswer": f"It is {question.answer}."}
        used[f"n{index}"] = picture
    places.json("gqa/data/testdev_balanced_questions.json", questions)
    for name, picture in used.items():
        places.content(f"gqa/data/images/{name}.jpg", picture.encoded(".jpg"))
    rows = [{"id": key, **row} for key, row in questions.items()]
    places.table("GQA", "testdev", rows, "testdev_balanced_instructions")
    images = [{"id": name, "image": picture.in_table(".jpg")} for name, picture in used.items()]
    places.table("GQA", "testdev", images, "testdev_balanced_images")


def pope(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """Is there a ...? Half of each split's questions are to be denied."""
    table = []
    for split in SPLITS:
        lines: list[dict[str, Any]] = []
        for number in range(size // 2):
            index = number % len(pictures)
            name = f"COCO_val2014_{index + 1:012d}"
            places.content(f"pope/val2014/{name}.jpg", pictures[index].encoded(".jpg"))
            for question in yes_and_no(split, pictures, pictures[index], rng):
                asked = {"question_id": len(lines) + 1, "text": question.text, "label": question.answer}
                lines.append({**asked, "image": f"{name}.jpg"})
                told = {"id": str(len(table)), "question_id": str(len(lines)), "question": question.text}
                shown = {"image_source": name, "image": pictures[index].in_table(".jpg")}
                table.append({**told, "answer": question.answer, "category": split, **shown})
        places.lines(f"pope/coco/coco_pope_{split}.json", lines)
    places.table("POPE", "test", table)


def mme(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """Two questions a picture, to be affirmed and to be denied, in categories of both parts."""
    root, table = "MME/MME_Benchmark_release_version", []
    for category in (*MME_BESIDE, *MME_APART):
        texts, images = ("questions_answers_YN/", "images/") if category in MME_APART else ("", "")
        for number in range(max(2, size // 6)):
            picture, name = pictures[number % len(pictures)], f"{number:04d}"
            pair = [f"{text} {MME_ASKED_FOR}" for text in true_and_false(category, pictures, picture, rng)]
            told = list(zip(pair, ("Yes", "No"), strict=True))
            lines = "".join(f"{question}\t{answer}\n" for question, answer in told)
            places.text(f"{root}/{category}/{texts}{name}.txt", lines)
            places.content(f"{root}/{category}/{images}{name}.jpg", picture.encoded(".jpg"))
            common = {"question_id": f"{category}/{name}.jpg", "category": category, "image": picture.in_table(".jpg")}
            table += [{**common, "question": question, "answer": answer} for question, answer in told]
    places.table("MME", "test", table)


def true_and_false(
    category: str, pictures: Sequence[Picture], picture: Picture, rng: np.random.Generator
) -> tuple[str, str]:
    """Asks what is to be affirmed and what is to be denied, in the manner of one of MME's categories."""
    digit: Digit = picture.digits[int(rng.integers(len(picture.digits)))]
    count = len(picture.digits)
    if category == "position":
        there, other = digit.place, QUADRANTS[(QUADRANTS.index(digit.place) + int(rng.integers(1, 4))) % 4]
        return f"Is the {digit.value} in the {there}?", f"Is the {digit.value} in the {other}?"
    if category == "color":
        at = COLOUR_NAMES.index(digit.colour) + int(rng.integers(1, len(COLOUR_NAMES)))
        return (
            f"Is the {digit.value} {digit.colour}?",
            f"Is the {digit.value} {COLOUR_NAMES[at % len(COLOUR_NAMES)]}?",
        )
    if category == "OCR":
        other_value = (digit.value + int(rng.integers(1, 10))) % 10
        return (
            f"Is the digit in the {digit.place} a {digit.value}?",
            f"Is the digit in the {digit.place} a {other_value}?",
        )
    if category == "count":
        return f"Are there {count} digits?", f"Are there {count % 4 + 1} digits?"
    if category == "numerical_calculation":
        total = sum(other.value for other in picture.digits)
        return f"Is {total} the sum of the digits?", f"Is {total + int(rng.integers(1, 6))} the sum of the digits?"
    there_is, there_is_not = yes_and_no("random", pictures, picture, rng)
    return there_is.text, there_is_not.text


def vqav2(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """Val with ten annotators' answers, one of whom errs now and then; test-dev without."""
    for split, file_split, hub_split in (("val2014", "val2014", "validation"), ("test2015", "test-dev2015", "testdev")):
        questions, annotations, table = [], [], []
        for index, again, picture, question in in_turn(pictures, size, rng):
            image_id = index + 1
            asked = {"question_id": image_id * 1000 + again, "image_id": image_id, "question": question.text}
            said = [question.answer] * ANNOTATORS
            if rng.random() < 0.25:
                said[int(rng.integers(ANNOTATORS))] = "dark"
            answers = [{"answer": a, "answer_id": n, "answer_confidence": "yes"} for n, a in enumerate(said, start=1)]
            known = {"answer_type": ANSWER_TYPES[question.kind], "multiple_choice_answer": question.answer}
            known |= {"question_type": question.text.split()[0].lower(), "answers": answers}
            questions.append(asked)
            annotations.append({"question_id": asked["question_id"], "image_id": image_id, **known})
            shown = {"image": picture.in_table(".jpg")}
            table.append({**asked, **(known if split == "val2014" else dict.fromkeys(known)), **shown})
            name = f"COCO_{split}_{image_id:012d}.jpg"
            places.content(f"vqav2/{split}/{name}", picture.encoded(".jpg"))
        places.json(f"vqav2/v2_OpenEnded_mscoco_{file_split}_questions.json", {"questions": questions})
        if split == "val2014":
            places.json("vqav2/v2_mscoco_val2014_annotations.json", {"annotations": annotations})
        places.table("VQAv2", hub_split, table)


def textvqa(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """What is written where; the OCR tokens are the digits."""
    questions, tokens, table = [], {}, []
    for number in range(size):
        index = number % len(pictures)
        picture, image_id = pictures[index], f"{index:016x}"
        question = ask("which", picture.digits, rng)
        asked = {"question_id": 34602 + number, "image_id": image_id, "question": question.text}
        row = {**asked, "answers": [question.answer] * ANNOTATORS}
        tokens[image_id] = [str(digit.value) for digit in picture.digits]
        questions.append({**row, "image_classes": ["Digit"], "set_name": "val"})
        table.append({**row, "ocr_tokens": tokens[image_id], "image": picture.in_table(".jpg")})
        places.content(f"textvqa/train_images/{image_id}.jpg", picture.encoded(".jpg"))
    listed = [{"image_id": image_id, "ocr_tokens": seen} for image_id, seen in tokens.items()]
    places.json("textvqa/TextVQA_Rosetta_OCR_v0.2_val.json", {"data": listed})
    places.json("textvqa/TextVQA_0.5.1_val.json", {"data": questions})
    places.table("textvqa", "validation", table)


def vizwiz(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """A picture a question, as VizWiz has it; every fourth asks after a quadrant that may be empty."""
    for split in ("val", "test"):
        rows, table = [], []
        for number, (_, _, picture, question) in enumerate(in_turn(pictures, min(size, len(pictures)), rng)):
            empty = [place for place in QUADRANTS if place not in {digit.place for digit in picture.digits}]
            answer, kind = question.answer, ANSWER_TYPES[question.kind]
            text = question.text
            if number % 4 == 3 and empty:
                text, answer, kind = f"Which digit is in the {empty[0]}?", "unanswerable", "unanswerable"
            name, said = f"VizWiz_{split}_{number:08d}", [answer] * ANNOTATORS
            known = {"answers": [{"answer": a, "answer_confidence": "yes"} for a in said], "answer_type": kind}
            rows.append({"image": f"{name}.jpg", "question": text, **(known if split == "val" else {})})
            public = {"answers": said, "category": kind} if split == "val" else {"answers": None, "category": None}
            table.append({"question_id": name, "question": text, "image": picture.in_table(".jpg"), **public})
            places.content(f"vizwiz/{split}/{name}.jpg", picture.encoded(".jpg"))
        places.json(f"vizwiz/{split}.json", rows)
        places.table("VizWiz-VQA", split, table)
