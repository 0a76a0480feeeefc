"""SEED-Bench: images and the middle frames of videos, or either alone; the option's letter.

The first `SEED-Bench.json` has 19,242 questions, 5,009 of them about videos; LLaVA's figures, and the paper's 58.6, are
over these. That of 2023-11-30 has 17,990 (3,757): the same answers score higher there. Each row says which it is over
(`release`).

Files: `seed_bench/SEED-Bench.json` ({questions: [{question_id, question, choice_a..choice_d, answer, data_type,
data_id, question_type_id}], question_type: {name: id}}), images in `seed_bench/SEED-Bench-image/<data_id>`, frames in
`seed_bench/SEED-Bench-video-image/<question_type_id>_<question_id>.png`, which is how LLaVA's `extract_video_frames.py`
names them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llava.eval.metrics import seed
from llava.eval.submissions import write_seed_submission
from llava.eval.tasks.base import LoadedTask, Sample, Scores, Task, register_task
from llava.eval.tasks.local_files import OPTION_LETTER, collect, keyed, options_below, read_field, with_tail
from llava.results.task_facts import SEED_RELEASES

_DATA_TYPES = ("image", "video")
_LETTERS = ("A", "B", "C", "D")


@register_task
class SeedBench(Task):
    """Images and videos."""

    name = "seed"
    description = "SEED-Bench, images and middle frames of videos; accuracy"
    max_new_tokens = 128
    benchmark = "seed"
    sources = ("https://huggingface.co/datasets/AILab-CVC/SEED-Bench",)
    published_size = 19_242
    other_sizes: ClassVar[tuple[int, ...]] = (17_990,)
    releases: ClassVar[tuple[str, ...]] = SEED_RELEASES
    paper_column = "SEED"
    reads_text = ("Text Understanding",)
    data_types: ClassVar[tuple[str, ...]] = _DATA_TYPES

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the questions."""
        folder = data_root / "seed_bench"
        path = folder / "SEED-Bench.json"
        types = keyed(read_field(path, "question_type", dict).items(), lambda item: item[1], lambda item: item[0])

        rows = read_field(path, "questions")
        ids = seed.unique_ids(str(row.get("question_id")) if isinstance(row, dict) else "" for row in rows)

        def build(numbered: tuple[str, dict[str, Any]]) -> Sample | None:
            sample_id, row = numbered
            question_id = row["question_id"]
            if row["data_type"] not in _DATA_TYPES:
                raise ValueError(f"data_type {row['data_type']!r} is neither image nor video")
            if row["data_type"] not in self.data_types:
                return None
            if row["answer"] not in _LETTERS:
                raise ValueError(f"answer {row['answer']!r} is none of {', '.join(_LETTERS)}")
            if row["data_type"] == "video":
                frame = f"{row['question_type_id']}_{question_id}.png"
                image = folder / "SEED-Bench-video-image" / frame
            else:
                image = folder / "SEED-Bench-image" / row["data_id"]
            options = [row[f"choice_{letter}"] for letter in "abcd"]
            return Sample(
                sample_id=sample_id,
                prompt=with_tail(options_below(row["question"], options), OPTION_LETTER),
                images=(image,),
                answer=row["answer"],
                group=types[row["question_type_id"]],
                details={"data_type": row["data_type"]},
            )

        return collect(path, zip(ids, rows, strict=True), build)

    def parse(self, text: str) -> str:
        """The text itself: LLaVA's script compares it with the letter as it is."""
        return text

    def is_correct(self, sample: Sample, text: str) -> float:
        """1 if the text is the letter."""
        return float(seed.is_correct(text, sample.answer))

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Accuracy, of images, of videos, and by type; a question without an answer is wrong."""
        return seed.seed_scores(
            seed.SeedAnswer(
                self.is_correct(sample, texts.get(sample.sample_id, "")), sample.details["data_type"], sample.group
            )
            for sample in samples
        )

    def write_submission(self, samples: Sequence[Sample], texts: Mapping[str, str], folder: Path) -> Path:
        """Writes the leaderboard's JSONL; a question without an answer gets an empty one."""
        ids = [sample.sample_id for sample in samples]
        return write_seed_submission(folder / f"{self.name}.jsonl", ids, {key: texts.get(key, "") for key in ids})


@register_task
class SeedBenchImages(SeedBench):
    """Images only, which is another and higher number ("SEED-I")."""

    name = "seed_image"
    description = "SEED-Bench, images only; accuracy"
    published_size = 14_233  # in both releases
    other_sizes = ()
    releases = ()
    paper_column = "SEED-I"
    data_types = ("image",)


@register_task
class SeedBenchVideos(SeedBench):
    """Middle frames of videos only."""

    name = "seed_video"
    description = "SEED-Bench, middle frames of videos only; accuracy"
    published_size = 5_009
    other_sizes = (3_757,)
    paper_column = ""
    data_types = ("video",)
