"""MM-Vet: 218 open questions; a judge grades each answer from 0 to 1.

Files, from MM-Vet's own release: `mm-vet/mm-vet.json` ({v1_0: {imagename, question, answer, capability}}) and
`mm-vet/images/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llava.eval.metrics import mmvet
from llava.eval.submissions import write_mmvet_results
from llava.eval.tasks.base import LoadedTask, Sample, Scores, register_task
from llava.eval.tasks.judged import JudgedTask
from llava.eval.tasks.local_files import collect, read_json


@register_task
class MmVet(JudgedTask):
    """Mean grade in percent, overall and per capability."""

    name = "mmvet"
    description = "MM-Vet; a judge's mean grade, overall and per capability"
    max_new_tokens = 1024
    sources = ("https://github.com/yuweihao/MM-Vet",)
    published_size = 218
    paper_column = "MMVet"
    reads_text = ("ocr",)
    judge_max_tokens = 3
    judge_temperatures = mmvet.TEMPERATURES
    retry_suffix = mmvet.RETRY_SUFFIX
    unread_grade = 0.0
    before: ClassVar[str] = ""

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the questions."""
        folder = data_root / "mm-vet"
        path = folder / "mm-vet.json"

        def build(item: tuple[str, dict[str, Any]]) -> Sample:
            key, row = item
            return Sample(
                sample_id=key,
                prompt=f"{self.before}{row['question']}",
                images=(folder / "images" / row["imagename"],),
                answer=row["answer"],
                details={"capability": list(row["capability"])},
            )

        return collect(path, read_json(path).items(), build)

    def question_types(self, sample: Sample) -> Mapping[str, Sequence[str]]:
        """The capabilities that it needs; most need several."""
        return {"capability": sample.details["capability"]}

    def grading_prompt(self, sample: Sample, text: str) -> str:
        """MM-Vet's few-shot table, the answer its last row."""
        return mmvet.grading_prompt(sample.prompt.removeprefix(self.before), sample.answer, text)

    def read_grade(self, reply: str) -> float | None:
        """A number between 0 and 1."""
        return mmvet.parse_grade(reply)

    def score_grades(self, samples: Sequence[Sample], grades: Mapping[str, Sequence[float | None]]) -> Scores:
        """Score, spread over the judge's runs, per capability and per set of capabilities."""
        return mmvet.mmvet_scores(grades, {sample.sample_id: sample.details["capability"] for sample in samples})

    def write_submission(self, samples: Sequence[Sample], texts: Mapping[str, str], folder: Path) -> Path:
        """Writes the file that MM-Vet's own evaluator reads."""
        return write_mmvet_results(folder / f"{self.name}.json", texts)


@register_task
class MmVetLmms(MmVet):
    """The model is asked to reason first, as lmms-eval does (tasks/mmvet/mmvet.yaml)."""

    name = "mmvet_lmms"
    description = "MM-Vet, lmms-eval's prompt, which asks to reason; a judge's mean grade"
    benchmark = "mmvet"
    paper_column = ""
    before = (
        "First please perform reasoning, and think step by step to provide best answer to the following question: \n\n"
    )
