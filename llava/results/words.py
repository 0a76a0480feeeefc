"""Numbers in words, for reports, tables and lines in a terminal."""

from __future__ import annotations


def counted(count: int, what: str) -> str:
    """`1 question`, `2 questions`.

    Args:
        count: How many.
        what: The singular of a noun whose plural ends in s.
    """
    return f"{count} {what}{'s' * (count != 1)}"


def tokens_text(tokens: float) -> str:
    """A mean number of tokens: `64`, and `59.4` of 59.4286."""
    return f"{round(tokens, 1):g}" if tokens < 1e5 else f"{tokens:.0f}"
