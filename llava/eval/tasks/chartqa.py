"""ChartQA test: 1,250 questions that people wrote and 1,250 made from summaries; relaxed accuracy.

Files, from the authors' `ChartQA Dataset.zip` (or vis-nlp/ChartQA), folder `test`: `chartqa/test_human.json` and
`chartqa/test_augmented.json` ([{imgname, query, label}]), and the charts in `chartqa/png/`. A question's id is its
place in its file.

The line below the question is lmms-eval's, which the figures of LLaVA's later models are made with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llava.eval.metrics import chartqa
from llava.eval.tasks.base import LoadedTask, Sample, Task, register_task
from llava.eval.tasks.local_files import collect, read_json, with_tail

SINGLE_WORD = "Answer the question with a single word."
SPLITS = ("human", "augmented")


@register_task
class ChartQa(Task):
    """Relaxed accuracy, overall and of either split."""

    name = "chartqa"
    description = "ChartQA test, human and augmented; relaxed accuracy"
    max_new_tokens = 128
    needs_image = True
    in_means = False
    reads_text = True
    sources = ("https://github.com/vis-nlp/ChartQA", "https://huggingface.co/datasets/ahmed-masry/ChartQA")
    published_size = 2_500

    def load(self, data_root: Path) -> LoadedTask:
        """Reads both splits."""
        folder = data_root / "chartqa"
        files = {split: read_json(folder / f"test_{split}.json", list) for split in SPLITS}

        def build(placed: tuple[str, int, dict[str, Any]]) -> Sample:
            split, number, row = placed
            return Sample(
                sample_id=f"{split}/{number}",
                prompt=with_tail(row["query"], SINGLE_WORD),
                images=(folder / "png" / row["imgname"],),
                answer=row["label"],
                group=split,
            )

        placed = [(split, number, row) for split, rows in files.items() for number, row in enumerate(rows)]
        places = [f"test_{split}.json row {number}" for split, number, _ in placed]
        return collect(folder, placed, build, places=places)

    def parse(self, text: str) -> str:
        """The text itself: a number near the answer is right too."""
        return text

    def is_correct(self, sample: Sample, text: str) -> float:
        """1 if the text is the answer, or a number within 5 % of it."""
        return float(chartqa.is_correct(text, sample.answer))
