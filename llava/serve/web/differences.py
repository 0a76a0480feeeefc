"""Two answers to the same question: the words in which they differ, marked."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from html import escape

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_MOST_WORDS = 2000  # pairs are compared: longer answers are not


def mark_differences(first: str, second: str) -> tuple[str, str]:
    """Both texts as HTML, with `<mark>` around the words that the other one does not have there.

    Letters' case counts, white space does not.
    """
    words = [_WORDS.findall(text) for text in (first, second)]
    if max(map(len, words)) > _MOST_WORDS:
        return escape(first), escape(second)
    one, other = (["" if word.isspace() else word for word in side] for side in words)
    marked: tuple[list[str], list[str]] = ([], [])
    for kind, a, b, c, d in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        for side, (start, end) in enumerate(((a, b), (c, d))):
            text = "".join(words[side][start:end])
            differs = kind != "equal" and text.strip()
            marked[side].append(f"<mark>{escape(text)}</mark>" if differs else escape(text))
    return "".join(marked[0]), "".join(marked[1])
