"""OCRBench: 1,000 questions about text in pictures, of ten types; the answer must contain a reference answer.

Files: `ocrbench/OCRBench.json` of Yuliang-Liu/MultimodalOCR ([{dataset_name, id, image_path, question, answers, type}];
`answers` is a text or a list) and the pictures in `ocrbench/OCRBench_Images/<image_path>`. Ids stand there for several
questions each, so that a question's id is its place in the file.

The line below the question is that of OCRBench's own `scripts/LLaVA1_5.py`; lmms-eval asks the question alone, and so
does `ocrbench_lmms`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llava.eval.metrics import ocrbench
from llava.eval.submissions import write_ocrbench_results
from llava.eval.tasks.base import LoadedTask, Sample, Scores, Task, register_task
from llava.eval.tasks.local_files import SHORT_ANSWER, collect, given_answers, read_json, with_tail


@register_task
class OcrBench(Task):
    """Share of questions whose answer is contained; OCRBench's points beside it."""

    name = "ocrbench"
    description = "OCRBench, text in pictures; the answer must be contained (points out of 1,000 beside it)"
    max_new_tokens = 128
    needs_image = True
    in_means = False
    reads_text = True
    sources = ("https://github.com/Yuliang-Liu/MultimodalOCR", "https://huggingface.co/datasets/echo840/OCRBench")
    published_size = 1_000
    tails: ClassVar[tuple[str, ...]] = (SHORT_ANSWER,)

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the questions."""
        folder = data_root / "ocrbench"
        path = folder / "OCRBench.json"

        def build(numbered: tuple[int, dict[str, Any]]) -> Sample:
            number, row = numbered
            answers = [row["answers"]] if isinstance(row["answers"], str) else given_answers(row["answers"])
            return Sample(
                sample_id=str(number),
                prompt=with_tail(row["question"], *self.tails),
                images=(folder / "OCRBench_Images" / row["image_path"],),
                answer=answers[0],
                group=row["type"],
                details={"answers": answers, "published": _published(row)},
            )

        return collect(path, enumerate(read_json(path, list)), build)

    def parse(self, text: str) -> str:
        """The text itself: how it is compared depends on the question."""
        return text

    def is_correct(self, sample: Sample, text: str) -> float:
        """1 if the text contains one of the answers."""
        return float(ocrbench.is_correct(text, sample.details["answers"], sample.details["published"]["dataset_name"]))

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Accuracy, by type, and points; a question without an answer is wrong."""
        earned = self.earned(samples, texts)
        return ocrbench.ocrbench_scores(
            ocrbench.OcrAnswer(earned[sample.sample_id], sample.group) for sample in samples
        )

    def write_submission(self, samples: Sequence[Sample], texts: Mapping[str, str], folder: Path) -> Path:
        """Writes the file that OCRBench's own script scores."""
        rows = (
            {
                "type": sample.group,
                "answers": sample.details["answers"],
                **sample.details["published"],
                "predict": texts.get(sample.sample_id, ""),
            }
            for sample in samples
        )
        return write_ocrbench_results(folder / f"{self.name}.json", rows)


def _published(row: Mapping[str, Any]) -> dict[str, str]:
    """What the file for OCRBench's own script repeats of a row, its id as text."""
    return {name: row[name] for name in ("dataset_name", "image_path", "question")} | {"id": str(int(row["id"]))}


@register_task
class OcrBenchLmms(OcrBench):
    """The question alone, as lmms-eval asks it."""

    name = "ocrbench_lmms"
    description = "OCRBench, lmms-eval's prompt, the question alone; the answer must be contained"
    benchmark = "ocrbench"
    tails = ()
