"""MME: 2,374 yes/no questions in 14 categories, two an image.

Files, from MME's own release: `MME/MME_Benchmark_release_version/<category>/`, in which the images and the text files
(`question <tab> Yes|No`, a line each) lie side by side, or in `images/` and `questions_answers_YN/`. LLaVA puts "Answer
the question using a single word or phrase." in the place of "Please answer yes or no.".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from llava.eval.metrics import mme
from llava.eval.tasks.base import Grades, LoadedTask, Sample, Scores, Task, TaskDataError, register_task
from llava.eval.tasks.local_files import SHORT_ANSWER, collect, existing, read_text, with_tail
from llava.results.score_parts import ScoreParts, Sums
from llava.results.task_facts import POINTS

_ASKED_FOR = "Please answer yes or no."
_IMAGE_TYPES = (".jpg", ".png", ".jpeg")


@register_task
class Mme(Task):
    """Accuracy plus accuracy+, summed over categories."""

    name = "mme"
    description = "MME; perception + cognition (2800 at most), and each"
    max_new_tokens = 128
    main_score = "total"
    scale = POINTS
    needs_image = True
    sources = ("https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation",)
    published_size = 2_374
    paper_column = "MME"
    reads_text = ("OCR",)

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the categories' text files."""
        root = existing([data_root / "MME" / "MME_Benchmark_release_version"])
        rows = [row for category in (*mme.PERCEPTION, *mme.COGNITION) for row in _rows(root / category, category)]
        if not rows:
            raise TaskDataError(f"{root} has none of MME's categories; docs/benchmarks.md says where they come from")
        return collect(root, rows, _sample)

    def parse(self, text: str) -> str:
        """`yes`, `no` or `other`."""
        return mme.parse(text)

    def is_correct(self, sample: Sample, text: str) -> float:
        """1 if the text says what the label says."""
        return float(mme.is_correct(text, sample.answer))

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Total, perception, cognition, and by category; a question without an answer is wrong."""
        return mme.mme_scores(
            mme.MmeAnswer(sample.group, sample.details["image"], sample.answer, texts.get(sample.sample_id, ""))
            for sample in samples
        )

    def parts(self, samples: Sequence[Sample], texts: Mapping[str, str], grades: Grades | None = None) -> ScoreParts:
        """The total: of each category right answers, questions, images with both right, images."""
        categories = sorted({sample.group for sample in samples})
        by_image: dict[str, list[Sample]] = {}
        for sample in samples:
            by_image.setdefault(sample.details["image"], []).append(sample)

        def sums_of(pair: Sequence[Sample]) -> list[float]:
            right = [self.is_correct(sample, texts.get(sample.sample_id, "")) for sample in pair]
            own = [sum(right), len(right), float(right == [1.0, 1.0]), 1.0]
            return [value * (category == pair[0].group) for category in categories for value in own]

        def total(sums: Sums) -> Sums:
            right, asked, both, images = (sums[:, start::4] for start in range(4))
            # A draw may have left a small category out.
            return np.asarray(100 * (right / np.maximum(asked, 1) + both / np.maximum(images, 1)).sum(axis=1))

        return ScoreParts.collect(list(by_image), map(sums_of, by_image.values()), total)


def _rows(folder: Path, category: str) -> Iterator[tuple[str, Path, int, str]]:
    """(category, image, number, line) of each question of a category; none if the folder is not there."""
    texts = folder / "questions_answers_YN" if (folder / "questions_answers_YN").is_dir() else folder
    images = folder / "images" if (folder / "images").is_dir() else folder
    for path in sorted(texts.glob("*.txt")):
        candidates = [images / f"{path.stem}{suffix}" for suffix in _IMAGE_TYPES]
        image = next((candidate for candidate in candidates if candidate.exists()), candidates[0])
        for number, line in enumerate(line for line in read_text(path).splitlines() if line.strip()):
            yield category, image, number, line


def _sample(row: tuple[str, Path, int, str]) -> Sample:
    category, image, number, line = row
    if number > 1:
        raise ValueError(f"{image.stem}.txt of {category}: {line!r} is one too many, MME asks two questions an image")
    question, *answer = line.strip().split("\t")
    if len(answer) != 1 or answer[0].lower() not in ("yes", "no"):
        raise ValueError(f"{image.stem}.txt of {category}: {line!r} is not a question, a tab, and Yes or No")
    return Sample(
        sample_id=f"{category}/{image.stem}#{number}",
        prompt=with_tail(question.removesuffix(_ASKED_FOR).rstrip(), SHORT_ANSWER),
        images=(image,),
        answer=answer[0],
        group=category,
        details={"image": f"{category}/{image.stem}"},
    )
