"""MMBench dev, English and Chinese: every question with its rotations; circular and vanilla accuracy.

Files, from OpenMMLab: `mmbench/mmbench_dev_20230712.tsv` and `mmbench_cn/mmbench_dev_cn_20231003.tsv` (or in
`mmbench/`), tables with the columns index, question, hint, A, B, C, D, answer, category, l2-category, split and image
(base64; a short one is the index of the row that has the image). The hint goes before the question, as LLaVA puts it.

An option whose cell is empty, `None` or `nan` is skipped by the scorer and in the server's table; the later ones keep
their letters. LLaVA's prompt shows the options up to the first such cell, and so does this one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import ClassVar

from llava.eval.metrics import mmbench
from llava.eval.submissions import write_mmbench_submission
from llava.eval.tasks.base import EmbeddedImage, Grades, LoadedTask, Sample, Scores, Task, TaskDataError, register_task
from llava.eval.tasks.local_files import OPTION_LETTER, collect, existing, options_below, with_tail
from llava.plain_files import check_is_file
from llava.results.score_parts import ScoreParts, mean_of_sums

OPTION_LETTER_CN = "请直接回答选项字母。"
_OPTIONS = ("A", "B", "C", "D")
_LMMS_OPTIONS = "There are several options:"
_LONGEST_REFERENCE = 64


@register_task
class MmBench(Task):
    """English."""

    name = "mmbench"
    description = "MMBench dev (English); circular and vanilla accuracy"
    max_new_tokens = 1024
    main_score = "circular_accuracy"
    rules = mmbench.RULES
    benchmark = "mmbench"
    sources = ("https://github.com/open-compass/MMBench",)
    published_size = 4_377
    paper_column = "MMB"
    reads_text = ("ocr",)
    paper_note = "answers that the rules leave open are wrong here; MMBench's server gives them to a GPT"
    file_name: ClassVar[str] = "mmbench_dev_20230712.tsv"
    tail: ClassVar[str] = OPTION_LETTER

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the table."""
        path = existing([data_root / self.name / self.file_name, data_root / "mmbench" / self.file_name])
        rows = read_table(path)
        encoded = {row.get("index", ""): row.get("image", "") for row in rows}
        images: dict[str, EmbeddedImage] = {}

        def build(row: dict[str, str]) -> Sample:
            image = encoded_image(row, encoded)
            if image not in images:  # rotations share their question's image, and so its bytes
                images[image] = decode_image(image, f"{path.name}#{row['index']}")
            options = options_of(row)
            return Sample(
                sample_id=str(int(row["index"])),
                prompt=self.prompt(row),
                images=(images[image],),
                answer=row.get("answer", ""),
                group=row.get("category", ""),
                details={
                    "question": row["question"],
                    "options": options,
                    "l2_category": row.get("l2-category", ""),
                    "split": row.get("split", ""),
                },
            )

        loaded = collect(path, rows, build)
        _check_questions(str(path), loaded.samples)
        return loaded

    def prompt(self, row: Mapping[str, str]) -> str:
        """LLaVA's question: hint, question and options below each other."""
        question = row["question"] if is_none(row["hint"]) else f"{row['hint']}\n{row['question']}"
        return with_tail(options_below(question, shown_options(row)), self.tail)

    def parse(self, text: str) -> str:
        """The letter that the text names by itself, or ""."""
        return mmbench.infer_letter(text, _OPTIONS)

    def is_correct(self, sample: Sample, text: str) -> float:
        """1 if the text names the right option, by letter or by words; rotations count for themselves."""
        return float(sample.answer != "" and mmbench.infer(text, sample.details["options"]) == sample.answer)

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> Scores:
        """Circular and vanilla accuracy, overall and by category; a question without an answer is wrong.

        Raises:
            TaskDataError: All rows are rotations of questions that are not there.
        """
        _check_questions(self.name, samples)
        return mmbench.mmbench_scores(
            mmbench.MmbenchAnswer(
                index=int(sample.sample_id),
                answer=sample.answer,
                text=texts.get(sample.sample_id, ""),
                options=sample.details["options"],
                category=sample.group,
                l2_category=sample.details["l2_category"],
            )
            for sample in samples
        )

    def parts(self, samples: Sequence[Sample], texts: Mapping[str, str], grades: Grades | None = None) -> ScoreParts:
        """Circular accuracy: a question and its rotations are one; rotations without their question do not count."""
        right: dict[int, bool] = {}
        for sample in samples:
            index = int(sample.sample_id) % mmbench.ROTATION
            hit = self.is_correct(sample, texts.get(sample.sample_id, "")) == 1.0
            right[index] = right.get(index, True) and hit
        asked = {int(sample.sample_id) for sample in samples}
        known = [index for index in right if index in asked]
        return ScoreParts.collect(list(map(str, known)), ([right[index], 1.0] for index in known), mean_of_sums)

    def write_submission(self, samples: Sequence[Sample], texts: Mapping[str, str], folder: Path) -> Path:
        """Writes the table that MMBench's server takes."""
        rows = [
            {"index": int(sample.sample_id), "question": sample.details["question"], **sample.details["options"]}
            | {"prediction": texts.get(sample.sample_id), "answer": sample.answer or None}
            | {"split": sample.details["split"]}
            for sample in samples
        ]
        return write_mmbench_submission(folder / f"{self.name}.xlsx", rows)


@register_task
class MmBenchLmms(MmBench):
    """English, asked as lmms-eval does."""

    name = "mmbench_lmms"
    description = "MMBench dev (English), lmms-eval's prompt; circular and vanilla accuracy"
    paper_column = paper_note = ""

    def prompt(self, row: Mapping[str, str]) -> str:
        """lmms-eval's question (tasks/mmbench/en_utils.py): hint and question in a line, an empty line at the end."""
        question = row["question"] if is_none(row["hint"]) else f"{row['hint']} {row['question']}"
        options = (f"{letter}. {option}" for letter, option in options_of(row).items())
        return with_tail(f"{question} {_LMMS_OPTIONS}", *options, "", self.tail)


@register_task
class MmBenchCn(MmBench):
    """Chinese."""

    name = "mmbench_cn"
    description = "MMBench dev (Chinese); circular and vanilla accuracy"
    published_size = 4_329
    paper_column = paper_note = ""
    file_name = "mmbench_dev_cn_20231003.tsv"
    tail = OPTION_LETTER_CN


def read_table(path: Path) -> list[dict[str, str]]:
    """The table's rows as texts; an empty cell is "".

    Raises:
        TaskDataError: It cannot be read.
    """
    import pandas  # comes with datasets; LLaVA reads the tables with it, and what it takes for empty is empty

    try:
        check_is_file(path)
        table = pandas.read_table(path, dtype=str, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise TaskDataError(f"{path} is not a table of tab-separated columns ({error})") from None
    return [{name: "" if cell != cell else cell for name, cell in row.items()} for row in table.to_dict("records")]


def _check_questions(where: str, samples: Sequence[Sample]) -> None:
    """Refuses rows that are all rotations: no score is over them."""
    if all(int(sample.sample_id) >= mmbench.ROTATION for sample in samples):
        raise TaskDataError(f"{where}: none of {len(samples)} rows is a question (index below {mmbench.ROTATION})")


def is_none(value: str) -> bool:
    """Whether a cell is empty in one of the ways that the tables have."""
    return value.lower() in ("", "nan", "none")


def options_of(row: Mapping[str, str]) -> dict[str, str]:
    """The options that there are, by letter."""
    return {letter: row[letter] for letter in _OPTIONS if not is_none(row[letter])}


def shown_options(row: Mapping[str, str]) -> list[str]:
    """The options of LLaVA's prompt: those before the first that is missing."""
    return list(takewhile(lambda option: not is_none(option), (row[letter] for letter in _OPTIONS)))


def encoded_image(row: Mapping[str, str], encoded: Mapping[str, str]) -> str:
    """The base64 text of a row's image, its own or that of the row whose index stands in its place.

    Args:
        row: A row of the table.
        encoded: The cell `image` of every row, by index.

    Raises:
        ValueError: The table has no such row, or that row has no image of its own.
    """
    image = row["image"]
    if len(image) > _LONGEST_REFERENCE:
        return image
    if image not in encoded and not image.isdecimal():
        raise ValueError(
            f"row {row['index']}: its image is {image!r}, neither an image in base64 nor another row's index"
        )
    if image not in encoded:
        raise ValueError(f"row {row['index']}: its image is that of row {image!r}, which the table does not have")
    if len(encoded[image]) <= _LONGEST_REFERENCE:
        raise ValueError(f"row {row['index']}: its image is that of row {image!r}, which has none of its own")
    return encoded[image]


def decode_image(text: str, name: str) -> EmbeddedImage:
    """An image from its base64 text.

    Raises:
        ValueError: It is not base64.
    """
    try:
        return EmbeddedImage(base64.b64decode(text, validate=True), name)
    except binascii.Error as error:
        raise ValueError(f"image {name} is not base64: {error}") from None
