"""Video-MME without subtitles: 2,700 questions about 900 videos of 11 seconds to an hour; the option's letter.

Files, as lmms-lab/Video-MME on the Hub has them: `videomme/videomme/test-*.parquet` (columns videoID, question_id,
duration, domain, sub_category, task_type, question, options, answer) and the videos in `videomme/data/<videoID>.mp4`.
The prompt is that of Video-MME's README.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llava.eval.metrics import videomme
from llava.eval.tasks.base import LoadedTask, Sample, Scores, Task, register_task
from llava.eval.tasks.local_files import OPTION_LETTER, collect, existing, with_tail
from llava.eval.tasks.parquet_rows import read_parquet
from llava.eval.tasks.video_files import Clips

_SORTED_BY = ("duration", "domain", "sub_category", "task_type")


@register_task
class VideoMme(Task):
    """Accuracy, by duration, domain and type."""

    name = "videomme"
    description = "Video-MME without subtitles (video); accuracy by duration, domain and type"
    max_new_tokens = 128
    video_frames = 32
    in_means = False
    benchmark = "videomme"
    sources = ("https://github.com/MME-Benchmarks/Video-MME", "https://huggingface.co/datasets/lmms-lab/Video-MME")
    published_size = 2_700
    before: ClassVar[str] = (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
        "letter (A, B, C, or D) of the correct option."
    )
    tail: ClassVar[str] = "The best answer is:"

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the table."""
        folder = data_root / "videomme"
        path = existing([*sorted(folder.rglob("test-*.parquet")), folder / "videomme" / "test-00000-of-00001.parquet"])
        clips = Clips(folder / "data")

        def build(row: dict[str, Any]) -> Sample:
            for name, known in (("answer", videomme.LETTERS), ("duration", videomme.DURATIONS)):
                if row[name] not in known:
                    raise ValueError(
                        f"question {row['question_id']}: {name} {row[name]!r} is none of {', '.join(known)}"
                    )
            options = list(row["options"])
            return Sample(
                sample_id=row["question_id"],
                prompt=with_tail(self.before, row["question"], *options, self.tail),
                images=(),
                answer=row["answer"],
                group=row["duration"],
                details={"options": options, "sorted_by": {name: row[name] for name in _SORTED_BY}},
                video=clips.find(row["videoID"]),
                frames=self.video_frames,
            )

        return collect(path, read_parquet([path]), build)

    def question_types(self, sample: Sample) -> Mapping[str, Sequence[str]]:
        """How long the video is, what it is from, and what is asked for."""
        return {name: [sample.details["sorted_by"][name]] for name in _SORTED_BY}

    def parse(self, text: str) -> str:
        """The letter that the text names, or ""."""
        return videomme.parse_letter(text)

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Accuracies; a question without an answer is wrong."""
        earned = self.earned(samples, texts)
        return videomme.videomme_scores(
            videomme.VideoMmeAnswer(
                correct=earned[sample.sample_id],
                answered=self.parse(texts.get(sample.sample_id, "")) != "",
                **sample.details["sorted_by"],
            )
            for sample in samples
        )


@register_task
class VideoMmeLmms(VideoMme):
    """Asked as lmms-eval does (tasks/videomme/videomme.yaml), which names subtitles where there are none."""

    name = "videomme_lmms"
    description = "Video-MME without subtitles (video), lmms-eval's prompt; accuracy"
    before = VideoMme.before.replace("based on the video.", "based on the video and the subtitles.")
    tail = f"\n{OPTION_LETTER}"
