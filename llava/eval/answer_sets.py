"""Finished answers on disk, `<output-dir>/answers/<task>/<compression>.jsonl`, for those who only read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.eval.answers import parse_answers
from llava.eval.answers_key import compression_file_name, compression_name
from llava.eval.results import Row
from llava.model.configuration import CompressionConfig, as_compression
from llava.plain_files import read_utf8


@dataclass(frozen=True)
class AnswerSet:
    """Answers of one task under one budget.

    Attributes:
        path: The file.
        key: The run key in its first line: what the answers were made with.
        texts: What the model said, by sample id.
        tokens: Visual tokens of each question, by sample id; 0 where the file does not say them.
    """

    path: Path
    key: dict[str, Any]
    texts: dict[str, str]
    tokens: dict[str, int | float]

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.key["task"])

    @property
    def compression(self) -> str:
        """Name of the budget, as in results.json."""
        return compression_name(as_compression(self.key["compression"]))


def read_answer_set(path: Path) -> AnswerSet:
    """Reads a file of answers.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a file of answers, or a kill cut its last line short.
    """
    text = read_utf8(path)
    try:
        key, rows, _ = parse_answers(text)
        texts = {sample_id: row["text"] for sample_id, row in rows.items()}
        tokens = {sample_id: row.get("visual_tokens", 0) for sample_id, row in rows.items()}
        answers = AnswerSet(path, key, texts, tokens)
        answers.task, answers.compression  # noqa: B018  # both must be there
    except KeyError as error:
        raise ValueError(f"{path} is not a file of answers of llava.eval: its run_key has no {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a file of answers of llava.eval ({error})") from None
    return answers


def find_answers(output_dir: Path, task: str) -> list[AnswerSet]:
    """The answer sets of a task in an output folder, in the order of their files' names."""
    return [read_answer_set(path) for path in sorted((output_dir / "answers" / task).glob("*.jsonl"))]


def made_alike(row: Row, answers: AnswerSet) -> bool:
    """Whether a row of results.json is about these answers."""
    same = ("prompts", "conv_mode", "dtype", "generation")
    if bool(row.get("exact")) != bool(answers.key.get("exact")):  # older rows and keys do not say it
        return False
    return row["compression"] == answers.compression and all(row.get(n) == answers.key.get(n) for n in same)


def answers_of_row(output_dir: Path, row: Row) -> AnswerSet | None:
    """The answers that a row of results.json is about: of the file that a run gives its name, else of any other.

    Args:
        output_dir: The folder of both.
        row: Of results.json.

    Raises:
        OSError: A file cannot be read.
        ValueError: One is not a file of answers.
    """
    name = compression_file_name(CompressionConfig.parse(row["compression"]))
    path = output_dir / "answers" / row["task"] / f"{name}.jsonl"
    if path.is_file() and made_alike(row, found := read_answer_set(path)):  # of fifty budgets only one is read
        return found
    return next((found for found in find_answers(output_dir, row["task"]) if made_alike(row, found)), None)
