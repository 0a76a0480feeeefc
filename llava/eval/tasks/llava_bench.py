"""LLaVA-Bench (In-the-Wild): 60 open questions; a judge grades each answer beside GPT-4's.

Files, from liuhaotian/llava-bench-in-the-wild on the Hub, in `llava-bench-in-the-wild/`: `questions.jsonl`
({question_id, image, category, text}), `context.jsonl` ({image, caption}), `answers_gpt4.jsonl` ({question_id, text})
and `images/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.eval.metrics import llava_bench
from llava.eval.metrics.averages import mean
from llava.eval.tasks.base import LoadedTask, Sample, Scores, register_task
from llava.eval.tasks.judged import JudgedTask
from llava.eval.tasks.local_files import collect, keyed, read_jsonl


@register_task
class LlavaBench(JudgedTask):
    """The model's mean grade as a percentage of the reference's."""

    name = "llava_bench"
    description = "LLaVA-Bench (In-the-Wild); a judge's grade relative to GPT-4's answers"
    max_new_tokens = 1024
    sources = ("https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild",)
    published_size = 60
    paper_column = "LLaVA-B"
    system_prompt = llava_bench.SYSTEM_PROMPT
    judge_temperatures = (llava_bench.TEMPERATURE,)
    unread_grade = (llava_bench.UNREAD.reference, llava_bench.UNREAD.model)

    def load(self, data_root: Path) -> LoadedTask:
        """Reads questions, captions and reference answers."""
        folder = data_root / "llava-bench-in-the-wild"
        path = folder / "questions.jsonl"
        captions = keyed(read_jsonl(folder / "context.jsonl"), lambda row: row["image"], lambda row: row["caption"])
        references = keyed(
            read_jsonl(folder / "answers_gpt4.jsonl"), lambda row: row["question_id"], lambda row: row["text"]
        )

        def build(row: dict[str, Any]) -> Sample:
            for known, key, what in (
                (captions, row["image"], "caption"),
                (references, row["question_id"], "reference"),
            ):
                if key not in known:
                    raise ValueError(f"there is no {what} of {key!r}")
            caption = captions[row["image"]]
            return Sample(
                sample_id=str(row["question_id"]),
                prompt=row["text"],
                images=(folder / "images" / row["image"],),
                answer=references[row["question_id"]],
                group=row["category"],
                details={"caption": caption if isinstance(caption, str) else list(caption)},
            )

        return collect(path, read_jsonl(path), build)

    def grading_prompt(self, sample: Sample, text: str) -> str:
        """LLaVA's side-by-side comparison, the reference first."""
        return llava_bench.grading_prompt(sample.details["caption"], sample.prompt, sample.answer, text)

    def read_grade(self, reply: str) -> list[float] | None:
        """Two numbers: the reference's and the model's."""
        grades = llava_bench.parse_review(reply)
        return [grades.reference, grades.model] if grades else None

    def is_on_scale(self, grade: Any) -> bool:
        """Whether both are from 1 to 10."""
        return llava_bench.Grades(*grade).is_on_scale

    def grade_sums(self, grade: Any) -> tuple[float, float]:
        """The model's grade and the reference's."""
        reference, model = grade
        return model, reference

    def score_grades(self, samples: Sequence[Sample], grades: Mapping[str, Sequence[list[float] | None]]) -> Scores:
        """Relative score, overall and by category: means over the judge's runs, each summarised as LLaVA does."""
        runs = max((len(values) for values in grades.values()), default=0)
        by_run = [
            self._score_run(samples, {key: v[run] for key, v in grades.items() if run < len(v)}) for run in range(runs)
        ]
        scores: Scores = {}
        for name in by_run[0] if by_run else {}:
            values = [run[name] for run in by_run]
            groups = sorted({group for value in values if isinstance(value, dict) for group in value})
            if groups:
                scores[name] = {
                    group: mean(value[group] for value in values if isinstance(value, dict) and group in value)
                    for group in groups
                }
            else:
                scores[name] = mean(value for value in values if not isinstance(value, dict))
        return scores

    def _score_run(self, samples: Sequence[Sample], grades: Mapping[str, list[float] | None]) -> Scores:
        by_category: dict[str, list[llava_bench.Grades | None]] = {}
        for sample in samples:
            if sample.sample_id in grades:
                pair = grades[sample.sample_id]
                by_category.setdefault(sample.group, []).append(llava_bench.Grades(*pair) if pair else None)
        return llava_bench.llava_bench_scores(by_category)
