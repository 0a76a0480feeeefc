"""tiny_pope: is there such a digit in the scene? Scored as POPE is: accuracy, and F1 of "yes"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava.eval.tasks.base import LoadedTask, Sample, Task, register_task
from llava.eval.tasks.tiny_data import TINY_DATA_ROOT, load_tiny


@register_task
class TinyPope(Task):
    """Yes/no questions; an answer that is neither is wrong."""

    name = "tiny_pope"
    description = "is there such a digit? (embedded); accuracy and F1 of yes"
    max_new_tokens = 16
    default_data_root = TINY_DATA_ROOT

    def load(self, data_root: Path) -> LoadedTask:
        """Reads `eval_pope.json`."""
        return load_tiny(data_root, "eval_pope.json", "split")

    def parse(self, text: str) -> str:
        """`yes` or `no`, whichever the text begins with, or nothing."""
        first = re.match(r"\W*(yes|no)\b", text.lower())
        return first[1] if first else ""

    def score(self, samples: Sequence[Sample], texts: Mapping[str, str]) -> dict[str, float | dict[str, float]]:
        """Accuracy, F1 of yes, and how often yes was said."""
        scores = super().score(samples, texts)
        said = {s.sample_id: self.parse(texts.get(s.sample_id, "")) for s in samples}
        truth = {s.sample_id: self.parse(s.answer) for s in samples}
        true_positives = sum(said[key] == truth[key] == "yes" for key in truth)
        # F1 = 2TP / (2TP + FP + FN): the denominator is what was said "yes" to plus what is "yes".
        claimed = sum(value == "yes" for value in said.values()) + sum(value == "yes" for value in truth.values())
        scores["f1"] = 2 * true_positives / claimed if claimed else 0.0
        scores["yes_rate"] = sum(value == "yes" for value in said.values()) / len(samples) if samples else 0.0
        return scores
