"""crowded_dev and crowded_test: questions about the embedded crowded scenes, scored by exact match.

Methods are chosen on dev; test is for what was chosen. Their pictures share no instance of any thing.
"""

from __future__ import annotations

from pathlib import Path

from llava.eval.tasks.base import LoadedTask, Task, register_task
from llava.eval.tasks.tiny_data import load_tiny

_DATA_ROOT = Path("playground/crowded/data/first")


class _Crowded(Task):
    """Accuracy, overall and per kind of question."""

    file_name: str
    max_new_tokens = 16
    default_data_root = _DATA_ROOT
    reads_text = ("text",)

    def load(self, data_root: Path) -> LoadedTask:
        """Reads the split's questions."""
        return load_tiny(data_root, self.file_name, "kind", "python -m playground.crowded.make_data")

    def parse(self, text: str) -> str:
        """The text in lower case, surrounding space and one final period removed."""
        return text.strip().lower().removesuffix(".").strip()


@register_task
class CrowdedDev(_Crowded):
    """The split on which methods and options are chosen."""

    name = "crowded_dev"
    description = "questions about crowded scenes (embedded), the split to choose on; exact match"
    file_name = "eval_dev.json"


@register_task
class CrowdedTest(_Crowded):
    """The split that what was chosen is measured on."""

    name = "crowded_test"
    description = "questions about crowded scenes (embedded), the split to measure on; exact match"
    file_name = "eval_test.json"
