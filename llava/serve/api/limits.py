"""How much one client, and all of them together, may ask of the machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The bounds of a running server.

    Attributes:
        body_bytes: Of a request.
        body_seconds: In which it must have come.
        send_seconds: In which a client must take what is sent to it.
        image_bytes: Of an image's file.
        pixels: Of an image, before and after it is made ready for the tower.
        images: Of a request.
        fetch_seconds: In which an image must have come from its URL.
        text_characters: Of all texts of a request.
        new_tokens: Of an answer.
        choices: Answers to one request, `n`.
        stops: Texts at which an answer ends.
        stop_characters: Of each.
        waiting: Requests beyond those that are being answered; later ones are refused.
        closing_seconds: In which what runs must end when the server is told to.
    """

    body_bytes: int = 20 * 2**20
    body_seconds: float = 30.0
    send_seconds: float = 60.0
    image_bytes: int = 10 * 2**20
    pixels: int = 25_000_000
    images: int = 16
    fetch_seconds: float = 20.0
    text_characters: int = 100_000
    new_tokens: int = 512
    choices: int = 8
    stops: int = 4
    stop_characters: int = 256
    waiting: int = 128
    closing_seconds: float = 300.0
