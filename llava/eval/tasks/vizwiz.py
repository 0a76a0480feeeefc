"""VizWiz-VQA: test is written for EvalAI (LLaVA's figure); val is scored here.

Files, from VizWiz's own release: `vizwiz/test.json` and `vizwiz/val.json` (lists of {image, question, answers:
[{answer}], answer_type}), images in `vizwiz/test/` and `vizwiz/val/`. Questions are written as LLaVA's file and
lmms-eval have them: first letter large, the rest small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llava.eval.metrics.answer_text import evalai_answer
from llava.eval.metrics.vqa import vqa_accuracy
from llava.eval.submissions import write_vizwiz_submission
from llava.eval.tasks.base import LoadedTask, Sample, Scores, Task, register_task
from llava.eval.tasks.local_files import SHORT_ANSWER, collect, given_answers, read_json, with_tail

INSUFFICIENT = "When the provided information is insufficient, respond with 'Unanswerable'."


@register_task
class VizWiz(Task):
    """Answers for EvalAI's server."""

    name = "vizwiz"
    description = "VizWiz test; answers written for EvalAI, not scored here"
    max_new_tokens = 128
    sources = ("https://vizwiz.org/tasks-and-datasets/vqa/",)
    published_size = 8_000
    has_answers = False
    split: ClassVar[str] = "test"

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the split's file."""
        folder = data_root / "vizwiz"
        path = folder / f"{self.split}.json"

        def build(row: dict[str, Any]) -> Sample:
            answers = given_answers(answer["answer"] for answer in row["answers"]) if self.has_answers else []
            return Sample(
                sample_id=row["image"],
                prompt=with_tail(row["question"].capitalize(), INSUFFICIENT, SHORT_ANSWER),
                images=(folder / self.split / row["image"],),
                answer="",
                group=row.get("answer_type") or "" if self.has_answers else "",
                details={"answers": answers},
            )

        return collect(path, read_json(path, list), build)

    def parse(self, text: str) -> str:
        """The answer as it is submitted and compared."""
        return evalai_answer(text)

    def is_correct(self, sample: Sample, text: str) -> float:
        """Soft accuracy; 0 where the answers are not public."""
        return vqa_accuracy(text, sample.details["answers"]) if sample.details["answers"] else 0.0

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Accuracy where the answers are public, else nothing."""
        return super().score(samples, texts) if self.has_answers else {}

    def write_submission(self, samples: Sequence[Sample], texts: Mapping[str, str], folder: Path) -> Path | None:
        """Writes `vizwiz.json` for EvalAI."""
        images = [sample.sample_id for sample in samples]
        return None if self.has_answers else write_vizwiz_submission(folder / f"{self.name}.json", images, texts)


@register_task
class VizWizVal(VizWiz):
    """Soft accuracy on val, as lmms-eval scores it."""

    name = "vizwiz_val"
    description = "VizWiz val; soft accuracy after the M4C evaluator's processing"
    published_size = 4_319
    paper_column = "VizWiz"
    paper_note = "the paper's figure is test, scored by the server; compare retention only"
    has_answers = True
    split = "val"
