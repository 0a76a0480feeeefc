"""RefCOCO, RefCOCO+ and RefCOCOg, val: which box does a phrase mean? Right if it overlaps by half (acc@0.5).

Files: `refcoco/refcoco_val.jsonl`, `refcoco/refcoco+_val.jsonl` and `refcoco/refcocog_val.jsonl`, as Qwen-VL publishes
them for its evaluation (a line {image, sent, bbox: [left, top, right, bottom] in pixels, width, height} a phrase; the
splits are UNC's, and of RefCOCOg UMD's), and COCO's pictures in `refcoco/train2014/`. A question's id is its place in
the file.

The question is that of LLaVA's training data, which ends the phrase with a period (haotian-liu/LLaVA, issue 623). The
boxes in the answers are relative to the padded square: see `llava.eval.metrics.refcoco`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llava.eval.metrics import refcoco
from llava.eval.tasks.base import LoadedTask, Sample, Scores, Task, register_task
from llava.eval.tasks.local_files import collect, read_jsonl

QUESTION = "Please provide the bounding box coordinate of the region this sentence describes: {}."


class _Refcoco(Task):
    """What the three share."""

    max_new_tokens = 128
    needs_image = True
    in_means = False
    reads_text = False
    sources = ("https://github.com/lichengunc/refer", "https://github.com/QwenLM/Qwen-VL/tree/master/eval_mm")
    file_name: ClassVar[str] = ""

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the phrases and their boxes."""
        folder = data_root / "refcoco"
        path = folder / self.file_name

        def build(numbered: tuple[int, dict[str, Any]]) -> Sample:
            number, row = numbered
            target = _target(row)
            return Sample(
                sample_id=str(number),
                prompt=QUESTION.format(row["sent"].strip().rstrip(".")),
                images=(folder / "train2014" / Path(row["image"]).name,),
                answer="[{:.3f}, {:.3f}, {:.3f}, {:.3f}]".format(*target.in_square()),
                group=target.size,
                details={"box": target.box, "width": target.width, "height": target.height},
            )

        return collect(path, enumerate(read_jsonl(path)), build)

    def question_types(self, sample: Sample) -> Mapping[str, Sequence[str]]:
        """None: what its group says is the size of the object."""
        return {}

    def object_share(self, sample: Sample) -> float:
        """How much of the picture the right box covers."""
        left, top, right, bottom = sample.details["box"]
        return float((right - left) * (bottom - top) / (sample.details["width"] * sample.details["height"]))

    def parse(self, text: str) -> str:
        """The first box of a text, or ""."""
        box = refcoco.parse_box(text)
        return "" if box is None else str(list(box))

    def is_correct(self, sample: Sample, text: str) -> float:
        """1 if the box overlaps the right one by half."""
        return float(self._answer(sample, text).overlap >= refcoco.THRESHOLD)

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Accuracy, by size of the object, and what is beside it; a question without an answer is wrong."""
        return refcoco.refcoco_scores(self._answer(sample, texts.get(sample.sample_id, "")) for sample in samples)

    def _answer(self, sample: Sample, text: str) -> refcoco.BoxAnswer:
        details = sample.details
        return refcoco.BoxAnswer.of(text, refcoco.Target(details["box"], details["width"], details["height"]))


@register_task
class RefcocoVal(_Refcoco):
    """RefCOCO, UNC's split."""

    name = "refcoco_val"
    description = "RefCOCO val; boxes in LLaVA's form, acc@0.5"
    published_size = 10_834
    other_sizes: ClassVar[tuple[int, ...]] = (23_962,)
    releases: ClassVar[tuple[str, ...]] = ("UNC's val", "the val of lmms-lab's table")
    file_name = "refcoco_val.jsonl"


@register_task
class RefcocoPlusVal(_Refcoco):
    """RefCOCO+, UNC's split: phrases without words of place."""

    name = "refcoco_plus_val"
    description = "RefCOCO+ val; boxes in LLaVA's form, acc@0.5"
    published_size = 10_758
    file_name = "refcoco+_val.jsonl"


@register_task
class RefcocogVal(_Refcoco):
    """RefCOCOg, UMD's split: whole sentences."""

    name = "refcocog_val"
    description = "RefCOCOg val (UMD); boxes in LLaVA's form, acc@0.5"
    published_size = 4_896
    file_name = "refcocog_val.jsonl"


def _target(row: Mapping[str, Any]) -> refcoco.Target:
    """The right box of a row.

    Raises:
        ValueError: It has no inside, or the picture has no size.
    """
    x1, y1, x2, y2 = map(float, row["bbox"])
    width, height = int(row["width"]), int(row["height"])
    if not (x1 < x2 and y1 < y2 and width > 0 and height > 0):
        raise ValueError(f"bbox {row['bbox']} of a picture of {width} x {height} is not [left, top, right, bottom]")
    return refcoco.Target((x1, y1, x2, y2), width, height)
