"""ChartQA: relaxed accuracy. A number may be 5 % off, anything else must be the answer, in any case.

The rule is that of pix2struct's `metrics.py`, which ChartQA's figures rest on, and Qwen-VL's and lmms-eval's too. Where
the answer is 0, or one side is no number, the texts must be equal. `12%` is 0.12, so that it is not the number 12.
"""

from __future__ import annotations

_TOLERANCE = 0.05


def is_correct(text: str, answer: str) -> bool:
    """Whether a text is the answer, or near enough.

    Args:
        text: What the model said.
        answer: The reference answer.
    """
    said, wanted = _number(text), _number(answer)
    if said is None or not wanted:
        return text.lower() == answer.lower()
    return abs(said - wanted) / abs(wanted) <= _TOLERANCE


def _number(text: str) -> float | None:
    """The number that a text is, percentages as shares; None if it is none."""
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None
