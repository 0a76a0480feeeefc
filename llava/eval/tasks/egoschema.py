"""EgoSchema: 500 of its 5,031 questions about three minutes of somebody's day, those whose answers are public.

Files, from EgoSchema's repository: `egoschema/questions.json` ([{q_uid, question, option 0, ... option 4}]) and
`egoschema/subset_answers.json` ({q_uid: number of the option}); the clips are `egoschema/videos/<q_uid>.mp4`. The
prompt is lmms-eval's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.eval.metrics import egoschema
from llava.eval.metrics.averages import mean
from llava.eval.tasks.base import LoadedTask, Sample, Scores, Task, register_task
from llava.eval.tasks.local_files import OPTION_LETTER, collect, options_below, read_json, with_tail
from llava.eval.tasks.video_files import Clips


@register_task
class EgoSchemaSubset(Task):
    """Accuracy, and the share of answers that name no option."""

    name = "egoschema_subset"
    description = "EgoSchema (video), the 500 questions with public answers; accuracy"
    max_new_tokens = 128
    video_frames = 32
    in_means = False
    sources = ("https://github.com/egoschema/EgoSchema",)
    published_size = 500

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the questions that have an answer."""
        folder = data_root / "egoschema"
        path = folder / "questions.json"
        rows = read_json(path, list)
        answers = read_json(folder / "subset_answers.json")
        clips = Clips(folder / "videos")

        def build(row: dict[str, Any]) -> Sample | None:
            uid = row["q_uid"]
            if uid not in answers:
                return None
            number = answers[uid]
            if type(number) is not int or not 0 <= number < len(egoschema.LETTERS):
                raise ValueError(f"the answer to {uid} is {number!r:.40}, none of 0 to {len(egoschema.LETTERS) - 1}")
            options = [row[f"option {place}"] for place in range(len(egoschema.LETTERS))]
            return Sample(
                sample_id=uid,
                prompt=with_tail(options_below(row["question"], options), OPTION_LETTER),
                images=(),
                answer=egoschema.LETTERS[number],
                details={"options": dict(zip(egoschema.LETTERS, options, strict=True))},
                video=clips.find(uid),
                frames=self.video_frames,
            )

        return collect(path, rows, build)

    def parse(self, text: str) -> str:
        """The text itself: which option it names depends on the question's."""
        return text

    def is_correct(self, sample: Sample, text: str) -> float:
        """1 if the text names the right option."""
        return float(_letter(sample, text) == sample.answer)

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Accuracy; and `unread_ratio`, the share of questions whose answer names no option, which is wrong."""
        unread = mean(not _letter(sample, texts.get(sample.sample_id, "")) for sample in samples)
        return super().score(samples, texts) | {"unread_ratio": unread}


def _letter(sample: Sample, text: str) -> str:
    return egoschema.parse_letter(text, [f"{key}. {option}" for key, option in sample.details["options"].items()])
