"""POPE on COCO: random, popular and adversarial questions about 500 images; the mean F1 of the three.

Files, from AoiDragon/POPE: `pope/coco/coco_pope_<split>.json` (a line each: {question_id, image, text, label}); images
of COCO val2014 in `pope/val2014/`. LLaVA's figures are over commit e3e3926, which has 2,910 random questions and 8,910
in all; the main branch has 9,000, 336 of which LLaVA was never asked. The score is over those that the files have, and
the row says which (`release`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llava.eval.metrics import pope
from llava.eval.tasks.base import Grades, LoadedTask, Sample, Scores, Task, TaskDataError, register_task
from llava.eval.tasks.local_files import SHORT_ANSWER, collect, read_jsonl, with_tail
from llava.results.score_parts import ScoreParts, Sums
from llava.results.task_facts import POPE_RELEASES


@register_task
class Pope(Task):
    """Yes/no questions; what is not a no is a yes, as POPE's script reads it."""

    name = "pope"
    description = "POPE on COCO, three splits; mean F1, accuracy, yes ratio"
    max_new_tokens = 128
    main_score = "f1"
    needs_image = True
    sources = ("https://github.com/AoiDragon/POPE/tree/e3e39262c85a6a83f26cf5094022a782cb0df58d/output/coco",)
    published_size = 8_910
    other_sizes = (9_000,)
    releases = POPE_RELEASES
    paper_column = "POPE"
    reads_text = False

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the three splits."""
        loaded = LoadedTask([])
        for split in pope.SPLITS:
            part = self._load_split(data_root / "pope", split)
            loaded.samples.extend(part.samples)
            loaded.bad_rows.extend(part.bad_rows)
        return loaded

    def _load_split(self, folder: Path, split: str) -> LoadedTask:
        path = folder / "coco" / f"coco_pope_{split}.json"

        def build(row: dict[str, Any]) -> Sample:
            if row["label"] not in ("yes", "no"):
                raise ValueError(f"label {row['label']!r} is neither yes nor no")
            return Sample(
                sample_id=f"{split}/{row['question_id']}",
                prompt=with_tail(row["text"], SHORT_ANSWER),
                images=(folder / "val2014" / row["image"],),
                answer=row["label"],
                group=split,
            )

        return collect(path, read_jsonl(path), build)

    def parse(self, text: str) -> str:
        """`yes` or `no`."""
        return "yes" if pope.says_yes(text) else "no"

    def is_correct(self, sample: Sample, text: str) -> float:
        """1 if the text says what the label says."""
        return float(self.parse(text) == sample.answer)

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Means over the splits, and each split's own.

        A question without an answer counts as answered wrongly: taking silence for a yes, as the script does with an
        empty text, would reward it.
        """
        by_split: dict[str, list[tuple[str, str]]] = {}
        for sample in samples:
            wrong = "no" if sample.answer == "yes" else "yes"
            by_split.setdefault(sample.group, []).append((texts.get(sample.sample_id, wrong), sample.answer))
        if not by_split:
            raise TaskDataError(f"{self.name}: there is no question to score")
        return pope.pope_scores(by_split)

    def parts(self, samples: Sequence[Sample], texts: Mapping[str, str], grades: Grades | None = None) -> ScoreParts:
        """The mean F1: of each split true positives, false positives and false negatives."""
        splits = sorted({sample.group for sample in samples})

        def sums_of(sample: Sample) -> list[float]:
            is_yes = sample.answer == "yes"
            text = texts.get(sample.sample_id)
            says_yes = pope.says_yes(text) if text is not None else not is_yes
            own = [float(says_yes and is_yes), float(says_yes and not is_yes), float(is_yes and not says_yes)]
            return [value * (sample.group == split) for split in splits for value in own]

        def mean_f1(sums: Sums) -> Sums:
            hits, false_yes, false_no = (sums[:, start::3] for start in range(3))
            # Without a hit F1 is 0, as the scorer has it.
            f1 = np.where(hits > 0, 2 * hits / np.maximum(2 * hits + false_yes + false_no, 1), 0.0)
            return np.asarray(f1.mean(axis=1))

        return ScoreParts.collect([sample.image_names for sample in samples], map(sums_of, samples), mean_f1)
