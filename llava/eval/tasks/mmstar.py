"""MMStar: 1,500 questions that need their picture, six categories of 250; the option's letter.

File: `mmstar/mmstar.parquet` of Lin-Chen/MMStar (columns index, question, image, answer, category, l2_category,
meta_info). The options stand in the question. The line below it is lmms-eval's, which has no period.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.eval.metrics import mmstar
from llava.eval.submissions import write_mmstar_submission
from llava.eval.tasks.base import EmbeddedImage, LoadedTask, Sample, Scores, Task, register_task
from llava.eval.tasks.local_files import collect, existing, with_tail
from llava.eval.tasks.parquet_rows import image_bytes, read_parquet

LETTER = "Answer with the option's letter from the given choices directly"


@register_task
class MmStar(Task):
    """Accuracy, by category and by axis."""

    name = "mmstar"
    description = "MMStar, questions that need their picture; accuracy, six categories"
    max_new_tokens = 128
    needs_image = True
    in_means = False
    sources = ("https://github.com/MMStar-Benchmark/MMStar", "https://huggingface.co/datasets/Lin-Chen/MMStar")
    published_size = 1_500

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the table."""
        path = data_root / "mmstar" / "mmstar.parquet"

        def build(row: dict[str, Any]) -> Sample:
            for name, known in (("answer", mmstar.LETTERS), ("category", mmstar.CATEGORIES)):
                if row[name] not in known:
                    raise ValueError(f"question {row['index']}: {name} {row[name]!r} is none of {', '.join(known)}")
            question = row["question"].strip()
            return Sample(
                sample_id=str(int(row["index"])),
                prompt=with_tail(question, LETTER),
                images=(EmbeddedImage(image_bytes(row, "image"), f"{path.name}#{row['index']}"),),
                answer=row["answer"],
                group=row["category"],
                details={
                    "published": {
                        "question": question,
                        "l2_category": row["l2_category"],
                        "bench": (row.get("meta_info") or {}).get("source") or "",
                    }
                },
            )

        return collect(path, read_parquet([existing([path])]), build)

    def parse(self, text: str) -> str:
        """The letter that the text names, or ""."""
        return next((letter for letter in mmstar.LETTERS if mmstar.is_correct(text, letter)), "")

    def is_correct(self, sample: Sample, text: str) -> float:
        """1 if the text names the right option."""
        return float(mmstar.is_correct(text, sample.answer))

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Accuracy, by category and by axis; a question without an answer is wrong."""
        earned = self.earned(samples, texts)
        return mmstar.mmstar_scores(
            mmstar.StarAnswer(earned[sample.sample_id], sample.group, sample.details["published"]["l2_category"])
            for sample in samples
        )

    def write_submission(self, samples: Sequence[Sample], texts: Mapping[str, str], folder: Path) -> Path:
        """Writes the table that MMStar's leaderboard asks for."""
        rows = (
            {
                "index": int(sample.sample_id),
                "answer": sample.answer,
                "category": sample.group,
                **sample.details["published"],
                "prediction": texts.get(sample.sample_id, ""),
            }
            for sample in samples
        )
        return write_mmstar_submission(folder / f"{self.name}.xlsx", list(rows))
