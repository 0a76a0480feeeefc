"""Miniatures of the benchmarks that a judge grades, MM-Vet and LLaVA-Bench: their prompts are the questions alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from benchmark_scenes import Picture, Places
from questions import CAPTION_PROMPT, KINDS, ask

CAPABILITIES = {
    "which": ["ocr", "spat"],
    "colour": ["rec"],
    "count": ["math", "rec"],
    "exist": ["ocr"],
    "where": ["ocr", "spat"],
}


def mmvet(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """Short questions, and every sixth a description of which each digit must be told."""
    questions, table = {}, []
    for number in range(size):
        picture, key = pictures[number % len(pictures)], f"v1_{number}"
        question = ask(KINDS[number % len(KINDS)], picture.digits, rng)
        text, answer, capability = question.text, question.answer, CAPABILITIES[question.kind]
        if number % 6 == 5:
            text, capability = CAPTION_PROMPT, ["gen", "ocr", "rec", "spat"]
            answer = "<AND>".join(str(digit.value) for digit in picture.digits)
        asked = {"question": text, "answer": answer}
        questions[key] = {"imagename": f"{key}.png", **asked, "capability": capability, "imagesource": "digits"}
        more = {"capability": ",".join(capability), "image_source": "digits", "image": picture.in_table(".png")}
        table.append({"question_id": key, **asked, **more})
        places.content(f"mm-vet/images/{key}.png", picture.encoded(".png"))
    places.json("mm-vet/mm-vet.json", questions)
    places.table("MMVet", "test", table)


def llava_bench(places: Places, pictures: Sequence[Picture], size: int, rng: np.random.Generator) -> None:
    """Of each picture a question, a description and a count; the reference is always right."""
    name = "llava-bench-in-the-wild"
    questions, references, context, table = [], [], {}, []
    for number in range(size):
        index, category = number // 3, ("conv", "detail", "complex")[number % 3]
        picture, image = pictures[index % len(pictures)], f"{index % len(pictures) + 1:03d}"
        question = ask("count" if category == "complex" else "which", picture.digits, rng)
        text, reference = question.text, question.answer
        if category == "detail":
            text, reference = CAPTION_PROMPT, picture.told()
        questions.append({"question_id": number, "image": f"{image}.jpg", "category": category, "text": text})
        references.append({"question_id": number, "text": reference, "category": category})
        context[image] = f"A dark picture of digits: {picture.told()}."
        row = {"question_id": number, "question": text, "category": category, "caption": context[image]}
        shown = {"image_id": image, "image": picture.in_table(".jpg")}
        table.append({**row, "gpt_answer": reference, **shown})
        places.content(f"{name}/images/{image}.jpg", picture.encoded(".jpg"))
    captions = [{"id": image, "image": f"{image}.jpg", "caption": text} for image, text in context.items()]
    places.lines(f"{name}/context.jsonl", captions)
    places.lines(f"{name}/questions.jsonl", questions)
    places.lines(f"{name}/answers_gpt4.jsonl", references)
    places.table(name, "train", table)
