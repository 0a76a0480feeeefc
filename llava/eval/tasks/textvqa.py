"""TextVQA, validation 0.5.1: 5,000 questions, with the OCR tokens in the question (LLaVA's way) or without.

Files: `textvqa/TextVQA_0.5.1_val.json` ({data: [{question_id, image_id, question, answers}]}) and the images in
`textvqa/train_images/<image_id>.jpg`. The OCR tokens come from LLaVA's `textvqa/llava_textvqa_val_v051_ocr.jsonl` or,
where that is not there, from TextVQA's `textvqa/TextVQA_Rosetta_OCR_v0.2_val.json` ({data: [{image_id, ocr_tokens}]}).
Questions are written as LLaVA and lmms-eval do: first letter large, the rest small.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from llava.eval.metrics.answer_text import evalai_answer
from llava.eval.metrics.vqa import vqa_accuracy
from llava.eval.tasks.base import LoadedTask, Sample, Task, register_task
from llava.eval.tasks.local_files import (
    SHORT_ANSWER,
    collect,
    existing,
    given_answers,
    keyed,
    read_field,
    read_jsonl,
    with_tail,
)

_OCR = "Reference OCR token: "


@register_task
class TextVqa(Task):
    """M4C soft accuracy; the question names the OCR tokens."""

    name = "textvqa"
    description = "TextVQA val, OCR tokens in the question; M4C accuracy"
    max_new_tokens = 128
    needs_image = True
    benchmark = "textvqa"
    sources = ("https://textvqa.org/dataset/",)
    published_size = 5_000
    paper_column = "TextVQA"
    reads_text = True
    with_ocr: ClassVar[bool] = True

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the annotations, and the OCR tokens where they are asked for."""
        folder = data_root / "textvqa"
        path = folder / "TextVQA_0.5.1_val.json"
        rows = read_field(path, "data")
        tokens = _ocr_lines(folder) if self.with_ocr else {}

        def build(row: dict[str, Any]) -> Sample:
            question = row["question"].capitalize()
            if self.with_ocr:
                if row["image_id"] not in tokens:
                    raise ValueError(f"there are no OCR tokens of image {row['image_id']!r}")
                question = with_tail(question, tokens[row["image_id"]])
            return Sample(
                sample_id=str(row["question_id"]),
                prompt=with_tail(question, SHORT_ANSWER),
                images=(folder / "train_images" / f"{row['image_id']}.jpg",),
                answer="",
                details={"answers": given_answers(row["answers"])},
            )

        return collect(path, rows, build)

    def parse(self, text: str) -> str:
        """The answer as it is compared."""
        return evalai_answer(text)

    def is_correct(self, sample: Sample, text: str) -> float:
        """Soft accuracy."""
        return vqa_accuracy(text, sample.details["answers"])


@register_task
class TextVqaNoOcr(TextVqa):
    """The same without OCR tokens, which is another and lower number."""

    name = "textvqa_no_ocr"
    description = "TextVQA val, the question alone; M4C accuracy"
    paper_column = ""
    with_ocr = False


def _ocr_lines(folder: Path) -> Mapping[str, str]:
    """The line that names an image's OCR tokens, by image id."""
    path = existing([folder / "llava_textvqa_val_v051_ocr.jsonl", folder / "TextVQA_Rosetta_OCR_v0.2_val.json"])
    if path.suffix == ".json":
        rows = read_field(path, "data")
        return keyed(rows, lambda row: row["image_id"], lambda row: _OCR + ", ".join(row["ocr_tokens"]))
    return keyed(read_jsonl(path), lambda row: row["question_id"], lambda row: _ocr_line(row["text"]))


def _ocr_line(question: str) -> str:
    """The line of LLaVA's question that names the tokens.

    Raises:
        ValueError: There is none.
    """
    for line in question.split("\n"):
        if line.startswith(_OCR):
            return line
    raise ValueError(f"no line begins with {_OCR!r}")
