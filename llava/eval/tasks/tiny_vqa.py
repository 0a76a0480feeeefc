"""tiny_vqa: open questions about the embedded digit scenes, scored by exact match."""

from __future__ import annotations

from pathlib import Path

from llava.eval.tasks.base import LoadedTask, Task, register_task
from llava.eval.tasks.tiny_data import TINY_DATA_ROOT, load_tiny


@register_task
class TinyVqa(Task):
    """Accuracy, overall and per kind of question."""

    name = "tiny_vqa"
    description = "questions about scenes of handwritten digits (embedded); exact match"
    max_new_tokens = 16
    default_data_root = TINY_DATA_ROOT

    def load(self, data_root: Path) -> LoadedTask:
        """Reads `eval_vqa.json`."""
        return load_tiny(data_root, "eval_vqa.json", "kind")

    def parse(self, text: str) -> str:
        """The text in lower case, surrounding space and one final period removed."""
        return text.strip().lower().removesuffix(".").strip()
