"""GQA, testdev-balanced: 12,578 questions about 398 images, exact match.

Files, from GQA's own release: `gqa/data/testdev_balanced_questions.json` ({id: {question, answer, imageId, types}}) and
`gqa/data/images/<imageId>.jpg`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.eval.metrics import gqa
from llava.eval.tasks.base import LoadedTask, Sample, Scores, Task, register_task
from llava.eval.tasks.local_files import SHORT_ANSWER, collect, read_json, with_tail


@register_task
class Gqa(Task):
    """Exact match after LLaVA's conversion."""

    name = "gqa"
    description = "GQA testdev-balanced; exact match"
    max_new_tokens = 128
    needs_image = True
    sources = ("https://cs.stanford.edu/people/dorarad/gqa/download.html",)
    published_size = 12_578
    paper_column = "GQA"
    reads_text = False

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the questions."""
        folder = data_root / "gqa" / "data"
        path = folder / "testdev_balanced_questions.json"

        def build(item: tuple[str, dict[str, Any]]) -> Sample:
            question_id, row = item
            types = row.get("types") or {}
            return Sample(
                sample_id=question_id,
                prompt=with_tail(row["question"], SHORT_ANSWER),
                images=(folder / "images" / f"{row['imageId']}.jpg",),
                answer=str(row["answer"]),
                details={name: str(types.get(name) or "") for name in ("structural", "semantic")},
            )

        return collect(path, read_json(path).items(), build)

    def question_types(self, sample: Sample) -> Mapping[str, Sequence[str]]:
        """GQA's two sorts: what is to be done, and what it is about."""
        return {name: [sample.details[name]] for name in ("structural", "semantic") if sample.details[name]}

    def parse(self, text: str) -> str:
        """Lower case, without periods at the end."""
        return gqa.normalise(text)

    def is_correct(self, sample: Sample, text: str) -> float:
        """1 if the text is the answer."""
        return float(gqa.is_correct(text, sample.answer))

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Accuracy, overall and by type; a question without an answer is wrong."""
        return gqa.gqa_scores(
            gqa.GqaAnswer(
                self.is_correct(sample, texts[sample.sample_id]) if sample.sample_id in texts else 0.0,
                sample.details.get("structural", ""),
                sample.details.get("semantic", ""),
            )
            for sample in samples
        )
