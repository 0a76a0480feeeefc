"""MVBench: 20 tasks of about 200 questions about what changes in a clip; the option's letter.

Files, as the branch `video` of OpenGVLab/MVBench on the Hub has them, whose clips are cut to what is asked about:
`mvbench/json/<task>.json` ([{video, question, candidates, answer}]) and the clips in the folders of `FOLDERS`. The
main branch has whole videos, of five tasks with a start and an end, and is not read. The prompt is lmms-eval's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.eval.metrics import mvbench
from llava.eval.tasks.base import LoadedTask, Sample, Scores, Task, register_task
from llava.eval.tasks.local_files import LETTERS, collect, existing, read_json, with_tail

BEST_OPTION = "Only give the best option.\n"
FOLDERS: Mapping[str, str] = {
    **dict.fromkeys(("action_sequence", "action_prediction", "object_interaction"), "star/Charades_segment"),
    **dict.fromkeys(
        ("moving_count", "moving_direction", "moving_attribute", "object_existence", "counterfactual_inference"),
        "clevrer/video_validation",
    ),
    **dict.fromkeys(("character_order", "object_shuffle", "state_change", "action_count"), "perception/videos"),
    "action_antonym": "ssv2_video_mp4",
    "action_localization": "sta/sta_video_segment",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "fine_grained_pose": "nturgbd_convert",
    "scene_transition": "scene_qa/video",
    "unexpected_action": "FunQA_test/test",
}
"""Where the clips of a task are, below `mvbench/`."""


@register_task
class MvBench(Task):
    """Accuracy, by task."""

    name = "mvbench"
    description = "MVBench (video); accuracy, 20 tasks"
    max_new_tokens = 128
    video_frames = 32
    in_means = False
    sources = ("https://huggingface.co/datasets/OpenGVLab/MVBench/tree/video",)
    published_size = 4_000

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the questions of all tasks."""
        folder = data_root / "mvbench"
        existing([folder / "json"])
        rows = list(_rows(folder / "json"))

        def build(numbered: tuple[str, int, Any]) -> Sample:
            task, number, row = numbered
            candidates = list(row["candidates"])
            if not 1 < len(candidates) <= len(LETTERS):
                raise ValueError(f"{len(candidates)} candidates, where 2 to {len(LETTERS)} are expected")
            if row["answer"] not in candidates:
                raise ValueError(f"answer {row['answer']!r:.40} is none of {len(candidates)} candidates")
            options = dict(zip(LETTERS, candidates, strict=False))
            shown = (f"({letter}) {option}" for letter, option in options.items())
            return Sample(
                sample_id=f"{task}/{number}",
                prompt=with_tail(f"Question:{row['question']}", "Option:", *shown, BEST_OPTION),
                images=(),
                answer=LETTERS[candidates.index(row["answer"])],
                group=task,
                details={"options": options},
                video=folder / FOLDERS[task] / row["video"],
                frames=self.video_frames,
            )

        return collect(folder, rows, build, places=[f"json/{task}.json row {number}" for task, number, _ in rows])

    def parse(self, text: str) -> str:
        """The letter that the text names, or ""; of several the first."""
        return next((letter for letter in LETTERS if mvbench.is_correct(text, letter)), "")

    def is_correct(self, sample: Sample, text: str) -> float:
        """1 if the text names the right option."""
        return float(mvbench.is_correct(text, sample.answer))

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Accuracy, by task, and lmms-eval's; a question without an answer is wrong, and lmms-eval leaves it out."""
        earned = self.earned(samples, texts)
        return mvbench.mvbench_scores(
            mvbench.MvAnswer(earned[s.sample_id], _lmms(texts.get(s.sample_id, ""), s.answer), s.group) for s in samples
        )


def _rows(folder: Path) -> Iterator[tuple[str, int, Any]]:
    for task in mvbench.TASKS:
        for number, row in enumerate(read_json(folder / f"{task}.json", list)):
            yield task, number, row


def _lmms(text: str, answer: str) -> float | None:
    return float(mvbench.is_correct_for_lmms_eval(text, answer)) if text else None
