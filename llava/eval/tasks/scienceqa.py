"""ScienceQA test: the image subset (2,017 questions) or all 4,241, the option's letter.

Files, from lupantech/ScienceQA: `scienceqa/problems.json` ({id: {question, choices, answer, hint, image, subject,
grade}}), `scienceqa/pid_splits.json` ({test: [id]}), images in `scienceqa/images/test/<id>/`. The prompt is that of
LLaVA's `llava_test_CQM-A.json`: the hint as context, the question, the options, the request for a letter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llava.eval.metrics import scienceqa
from llava.eval.tasks.base import LoadedTask, Sample, Scores, Task, register_task
from llava.eval.tasks.local_files import OPTION_LETTER, collect, options_below, read_field, read_json, with_tail


@register_task
class ScienceQaImages(Task):
    """The subset with images, which is what papers call SQA."""

    name = "sqa_img"
    description = "ScienceQA test, questions with an image; accuracy"
    max_new_tokens = 1024
    benchmark = "scienceqa"
    sources = ("https://github.com/lupantech/ScienceQA/tree/main/data/scienceqa",)
    published_size = 2_017
    paper_column = "SQA"
    images_only: ClassVar[bool] = True

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the problems of the test split."""
        folder = data_root / "scienceqa"
        path = folder / "problems.json"
        problems = read_json(path)
        ids = read_field(folder / "pid_splits.json", "test")
        rows = [(key, problems.get(key) if isinstance(key, str) else None) for key in ids]

        def build(item: tuple[Any, Any]) -> Sample | None:
            key, row = item
            if row is None:
                raise ValueError(f"pid_splits.json names {key!r}, which is not there")
            image = row.get("image")
            if self.images_only and not image:
                return None
            if row["answer"] not in range(len(row["choices"])):
                raise ValueError(f"answer {row['answer']!r} is not the place of one of {len(row['choices'])} choices")
            question = f"Context: {row['hint']}\n{row['question']}" if row["hint"] else row["question"]
            return Sample(
                sample_id=key,
                prompt=with_tail(options_below(question, row["choices"]), OPTION_LETTER),
                images=(folder / "images" / "test" / key / image,) if image else (),
                answer=scienceqa.LETTERS[row["answer"]],
                group=row["subject"],
                details={
                    "choices": len(row["choices"]),
                    "has_text": bool(row["hint"]),
                    "subject": row["subject"],
                    "grade": str(row["grade"]),
                },
            )

        return collect(path, rows, build)

    def parse(self, text: str) -> str:
        """The letter that the text names, or ""."""
        return scienceqa.parse_letter(text)

    def is_correct(self, sample: Sample, text: str) -> float:
        """1 if the text names the right option."""
        index = scienceqa.predicted_index(text, sample.details["choices"])
        return float(index >= 0 and scienceqa.LETTERS[index] == sample.answer)

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Accuracy, that of the image subset, and by category; a question without an answer is wrong."""
        return scienceqa.scienceqa_scores(
            scienceqa.ScienceAnswer(
                correct=self.is_correct(sample, texts.get(sample.sample_id, "")),
                has_image=bool(sample.images),
                has_text=sample.details["has_text"],
                subject=sample.details["subject"],
                grade=sample.details["grade"],
            )
            for sample in samples
        )


@register_task
class ScienceQaFull(ScienceQaImages):
    """The whole test split; questions without an image are asked as text."""

    name = "sqa_full"
    description = "ScienceQA test, all questions; accuracy"
    published_size = 4_241
    paper_column = ""
    images_only = False
