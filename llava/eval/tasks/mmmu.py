"""MMMU validation: 900 questions of 30 subjects, some with several images; micro accuracy.

Files: any parquet of the validation split below `mmmu/`, as lmms-lab/MMMU or MMMU/MMMU have them on the Hub
(`validation-*.parquet`; columns id, question, options, answer, question_type, image_1 to image_7).

Two prompts are in use and give different figures, so each has a name. `mmmu_val` is lmms-eval's: options as `A. ...`,
all the images that the question names, in front of it. `mmmu_val_official` is that of MMMU's own LLaVA run: options as
`(A) ...` and the first image only.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.eval.metrics import mmmu
from llava.eval.tasks.base import EmbeddedImage, LoadedTask, Sample, Scores, Task, TaskDataError, register_task
from llava.eval.tasks.local_files import OPTION_LETTER, SHORT_ANSWER, collect
from llava.eval.tasks.parquet_rows import image_bytes, read_parquet

_IMAGE = re.compile(r"<image (\d+)>")
_MULTIPLE_CHOICE = "multiple-choice"


@register_task
class MmmuVal(Task):
    """lmms-eval's prompt, all images."""

    name = "mmmu_val"
    description = "MMMU validation, lmms-eval's prompt, all images; micro accuracy"
    max_new_tokens = 128
    benchmark = "mmmu"
    sources = ("https://huggingface.co/datasets/MMMU/MMMU", "https://huggingface.co/datasets/lmms-lab/MMMU")
    published_size = 900
    paper_column = "MMMU"

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the parquet files."""
        folder = data_root / "mmmu"
        files = sorted(folder.glob("**/validation-*.parquet"))
        if not files:
            raise TaskDataError(f"{folder} has no validation-*.parquet; docs/benchmarks.md says where they come from")
        return collect(folder, read_parquet(files), self._sample)

    def _sample(self, row: Mapping[str, Any]) -> Sample:
        is_choice = row["question_type"] == _MULTIPLE_CHOICE
        options = _list(row["options"]) if is_choice else []
        prompt = self.prompt(row["question"], options)
        images = self.images(row, prompt)
        if len(images) > 1:
            prompt = f"{' '.join([DEFAULT_IMAGE_TOKEN] * len(images))}\n{prompt}"
        answers = [row["answer"]] if is_choice else _list(row["answer"])
        return Sample(
            sample_id=row["id"],
            prompt=prompt,
            images=images,
            answer=answers[0],
            group=mmmu.subject_of(row["id"]),
            details={"options": options, "answers": answers},
        )

    def prompt(self, question: str, options: Sequence[str]) -> str:
        """The question as lmms-eval puts it."""
        if not options:
            return f"{question}\n\n{SHORT_ANSWER}"
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip(mmmu.letters(options), options, strict=True))
        return f"{question}\n{listed}\n\n{OPTION_LETTER}"

    def images(self, row: Mapping[str, Any], prompt: str) -> tuple[EmbeddedImage, ...]:
        """The images that the prompt names, each once, in the order of their names."""
        names = sorted({f"image_{number}" for number in _IMAGE.findall(prompt)})
        return tuple(_image(row, name) for name in names)

    def parse(self, text: str) -> str:
        """The text itself: what it names depends on the question's options."""
        return text

    def is_correct(self, sample: Sample, text: str) -> float:
        """1 if the text names the right option, or contains the answer."""
        return self._answer(sample, text).correct

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Accuracy, by domain and by subject; a question without an answer is wrong."""
        return mmmu.mmmu_scores(
            self._answer(sample, texts[sample.sample_id])
            if sample.sample_id in texts
            else mmmu.MmmuAnswer(0.0, sample.group)
            for sample in samples
        )

    def _answer(self, sample: Sample, text: str) -> mmmu.MmmuAnswer:
        options = sample.details["options"]
        if options:
            letter, drawn = mmmu.choose(text, options, mmmu.generator(sample.sample_id))
            return mmmu.MmmuAnswer(float(letter == sample.answer), sample.group, drawn)
        correct = mmmu.is_correct_open(mmmu.parse_open(text), sample.details["answers"])
        return mmmu.MmmuAnswer(float(correct), sample.group)


@register_task
class MmmuValOfficial(MmmuVal):
    """The prompt of MMMU's own LLaVA run, first image only."""

    name = "mmmu_val_official"
    description = "MMMU validation, MMMU's own LLaVA prompt, first image; micro accuracy"
    paper_column = ""

    def prompt(self, question: str, options: Sequence[str]) -> str:
        """The question as MMMU's `configs/llava1.5.yaml` puts it."""
        if not options:
            return f"{question}\n\n{SHORT_ANSWER}"
        listed = "".join(
            f"({letter}) {option}\n" for letter, option in zip(mmmu.letters(options), options, strict=True)
        )
        return f"{question}\n\n{listed}\n\n{OPTION_LETTER}"

    def images(self, row: Mapping[str, Any], prompt: str) -> tuple[EmbeddedImage, ...]:
        """The first image."""
        return (_image(row, "image_1"),)


def _list(value: Any) -> list[str]:
    """A list that the Hub's tables may hold as its Python text; a plain text is a list of one."""
    if isinstance(value, str):
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return [value]
        value = parsed if isinstance(parsed, list) else [value]
    return [str(item) for item in value]


def _image(row: Mapping[str, Any], name: str) -> EmbeddedImage:
    try:
        return EmbeddedImage(image_bytes(row, name), f"{row['id']}/{name}")
    except ValueError:
        raise ValueError(f"{row['id']} names {name}, which is empty") from None
