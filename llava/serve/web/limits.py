"""How much one visitor, and all of them together, may ask of the machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The bounds of a running demo.

    Attributes:
        upload_bytes: Of a picture's file.
        pixels: Of a picture, before and after it is made ready for the tower.
        question_characters: Of one question.
        turns: Of one conversation.
        new_tokens: Of one answer.
        seconds: Of one answer; then it ends as it is.
        visitors: Whose pictures are kept; who was away longest is forgotten first.
        waiting: Requests that wait for their turn; later ones are refused.
    """

    upload_bytes: int = 10 * 2**20
    pixels: int = 25_000_000
    question_characters: int = 1000
    turns: int = 12
    new_tokens: int = 256
    seconds: float = 120.0
    visitors: int = 16
    waiting: int = 32
