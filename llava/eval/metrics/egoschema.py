"""EgoSchema: the option's letter, as lmms-eval reads it; EgoSchema's own server takes the number of the option.

"(A)", "A " and "A." are looked for anywhere, even at the end of a word; of several letters, that one counts whose
last place is the first. Only where there is none, and the text has more than five words, an option's text counts.
lmms-eval draws an option at random where a text names none; here it is wrong, as EgoSchema's server counts what is no
option.
"""

from __future__ import annotations

from collections.abc import Sequence

LETTERS = ("A", "B", "C", "D", "E")

_EDGES = (",", ".", "!", "?", ";", ":", "'")
_FORMS = ("({})", "{} ", "{}.")
_SHORT_REPLY = 5


def parse_letter(text: str, options: Sequence[str]) -> str:
    """The letter that a text names, or "".

    Args:
        text: What the model said.
        options: The options as they were shown, `A. ...` and so on.
    """
    for mark in _EDGES:
        text = text.strip(mark)
    text = f" {text} "
    forms = ((form.format(letter), letter) for form in _FORMS for letter in LETTERS)
    places = [(text.rfind(form), letter) for form, letter in forms if form in text]
    if not places and len(text.split()) > _SHORT_REPLY:
        text = text.lower()
        shown = [(option.lower(), letter) for option, letter in zip(options, LETTERS, strict=True)]
        places = [(text.rfind(option), letter) for option, letter in shown if option in text]
    return min(places, key=lambda place: place[0])[1] if places else ""
