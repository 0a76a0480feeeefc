"""VQAv2: val is scored here with soft accuracy of normalised answers; test-dev is written for EvalAI.

Files of val, from visualqa.org, in `vqav2/`: `v2_OpenEnded_mscoco_val2014_questions.json` ({questions: [{question_id,
image_id, question}]}), `v2_mscoco_val2014_annotations.json` ({annotations: [{question_id, answers: [{answer}],
answer_type, multiple_choice_answer}]}), images `val2014/COCO_val2014_<12 digits>.jpg`.

Files of test-dev: `vqav2/v2_OpenEnded_mscoco_test-dev2015_questions.json`, images in `vqav2/test2015/`. EvalAI wants an
answer to every question of test2015, so those that are not in test-dev are left empty where
`vqav2/v2_OpenEnded_mscoco_test2015_questions.json` says which they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.eval.metrics.answer_text import evalai_answer
from llava.eval.metrics.averages import mean
from llava.eval.metrics.vqa import raw_vqa_accuracy, vqa_accuracy
from llava.eval.submissions import write_vqa_submission
from llava.eval.tasks.base import LoadedTask, Sample, Scores, Task, register_task
from llava.eval.tasks.local_files import SHORT_ANSWER, collect, given_answers, keyed, read_field, with_tail


class _Vqav2(Task):
    """What val and test-dev share."""

    max_new_tokens = 128
    needs_image = True
    sources = ("https://visualqa.org/download.html",)

    def parse(self, text: str) -> str:
        """The answer as it is submitted and compared."""
        return evalai_answer(text)

    def is_correct(self, sample: Sample, text: str) -> float:
        """Soft accuracy; 0 where the answers are not public."""
        return vqa_accuracy(text, sample.details["answers"]) if sample.details.get("answers") else 0.0


@register_task
class Vqav2Val(_Vqav2):
    """Soft accuracy on val, whose answers are public; that of the raw text beside it."""

    name = "vqav2_val"
    description = "VQAv2 val; soft accuracy of normalised answers (the paper's figure is test-dev)"
    published_size = 214_354
    paper_column = "VQAv2"
    rules = "EvalAI's processor first"  # version 0.1.0 scored by what is `raw_accuracy` now
    paper_note = "the paper's figure is test-dev, scored by the server; compare retention only"

    def load(self, data_root: Path) -> LoadedTask:
        """Reads questions and annotations."""
        folder = data_root / "vqav2"
        path = folder / "v2_OpenEnded_mscoco_val2014_questions.json"
        rows = read_field(folder / "v2_mscoco_val2014_annotations.json", "annotations")
        annotations = keyed(rows, lambda row: row["question_id"], lambda row: row)

        def build(row: dict[str, Any]) -> Sample:
            annotation = annotations.get(row["question_id"])
            if annotation is None:
                raise ValueError(f"question {row['question_id']} has no annotation")
            answers = given_answers(answer["answer"] for answer in annotation["answers"])
            return Sample(
                sample_id=str(row["question_id"]),
                prompt=with_tail(row["question"], SHORT_ANSWER),
                images=(folder / "val2014" / f"COCO_val2014_{row['image_id']:012d}.jpg",),
                answer=annotation["multiple_choice_answer"],
                group=annotation["answer_type"],
                details={"answers": answers},
            )

        return collect(path, read_field(path, "questions"), build)

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Accuracy, overall and by group, and `raw_accuracy`, by the official script without normalising first."""
        raw = (
            raw_vqa_accuracy(texts[s.sample_id], s.details["answers"]) if s.sample_id in texts else 0.0 for s in samples
        )
        return super().score(samples, texts) | {"raw_accuracy": mean(raw)}


@register_task
class Vqav2TestDev(_Vqav2):
    """Answers for EvalAI's server."""

    name = "vqav2_testdev"
    description = "VQAv2 test-dev; answers written for EvalAI, not scored here"
    published_size = 107_394
    has_answers = False

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the questions; which others the server wants is kept with each sample."""
        folder = data_root / "vqav2"
        path = folder / "v2_OpenEnded_mscoco_test-dev2015_questions.json"

        def build(row: dict[str, Any]) -> Sample:
            return Sample(
                sample_id=str(int(row["question_id"])),
                prompt=with_tail(row["question"], SHORT_ANSWER),
                images=(folder / "test2015" / f"COCO_test2015_{row['image_id']:012d}.jpg",),
                answer="",
                details={"submission_ids": str(folder / "v2_OpenEnded_mscoco_test2015_questions.json")},
            )

        return collect(path, read_field(path, "questions"), build)

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Nothing: the answers are not public."""
        return {}

    def write_submission(self, samples: Sequence[Sample], texts: Mapping[str, str], folder: Path) -> Path:
        """Writes `vqav2_testdev.json` for EvalAI."""
        every = Path(samples[0].details["submission_ids"])
        ids = [int(sample.sample_id) for sample in samples]
        if every.exists():
            ids = [row["question_id"] for row in read_field(every, "questions")]
        answers = {int(sample_id): text for sample_id, text in texts.items()}
        return write_vqa_submission(folder / f"{self.name}.json", ids, answers)
