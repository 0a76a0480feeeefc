"""What is asked, how it is to be answered, what comes back and what it has cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from llava.constants import MOST_BEAMS
from llava.images.source import ImageSource

_LEAST_TEMPERATURE = 1e-9  # logits over it stay finite in fp32


@dataclass(frozen=True)
class Question:
    """A question and the images that it is about.

    Attributes:
        text: The user's words. Images stand in front of them unless the text says where: once `<image>` (or
            `<image-placeholder>`) for each image.
        images: Paths, URLs, encoded bytes or PIL images, in the order of the placeholders; `llava.video.Video` for a
            video, which the text may place by `<video>`.
        earlier: Turns before it, each the user's words and the model's answer. Their images come first in `images`, and
            each is named in its text by `<image>`.
        system: The system text in place of the template's own; None keeps that.
    """

    text: str
    images: tuple[ImageSource, ...] = ()
    earlier: tuple[tuple[str, str], ...] = ()
    system: str | None = None

    def __post_init__(self) -> None:
        """Refuses a single image in the place of a tuple: the letters of a path would be taken for images."""
        if not isinstance(self.images, tuple | list):
            raise TypeError(f"a question's images are a tuple, got {self.images!r}; write (image,) for a single one")


@dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        index: Which question of the call this answers.
        text: The answer, special tokens and surrounding space removed; empty if there is an error.
        token_ids: The new ids, the end token excluded.
        prompt_tokens: Length of the prompt as the language model has seen it, visual tokens included.
        visual_tokens: Visual tokens in it; with a method inside the language model, what a layer reads on average.
        lost_tokens: Tokens at the prompt's end that the model has not seen, for it was longer than the model's
            `tokenizer_model_max_length`.
        error: Why there is no answer (an unreadable image, named; a question that cannot be asked), or None.
        frames: Of each video of the question, the numbers of the frames that the model has seen.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    prompt_tokens: int = 0
    visual_tokens: float = 0
    lost_tokens: int = 0
    error: str | None = None
    frames: tuple[tuple[int, ...], ...] = ()

    @property
    def truncated(self) -> bool:
        """Whether the prompt was cut."""
        return self.lost_tokens > 0


@dataclass(frozen=True)
class GenerationOptions:
    """How answers are made; greedy unless a temperature is given.

    Raises:
        ValueError: A value is out of its range.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float | None = None
    num_beams: int = 1

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if 0 < self.temperature < _LEAST_TEMPERATURE:
            raise ValueError(f"temperature {self.temperature} is too small to divide by; 0 is greedy")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not 1 <= self.num_beams <= MOST_BEAMS:
            raise ValueError(f"num_beams must be 1 to {MOST_BEAMS}, got {self.num_beams}")

    def to_kwargs(self) -> dict[str, Any]:
        """The keyword arguments for `model.generate`."""
        kwargs: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.num_beams,
            "do_sample": self.temperature > 0,
        }
        if self.temperature > 0:
            kwargs |= {"temperature": self.temperature, "top_p": self.top_p if self.top_p is not None else 1.0}
            kwargs["remove_invalid_values"] = True  # a draw from NaN would end the process on a GPU; see `FirstLogits`
        return kwargs


@dataclass
class Usage:
    """What the latest call has cost so far. Times are wall-clock seconds, the device synchronised."""

    questions: int = 0
    image_uses: int = 0
    images_encoded: int = 0
    images_from_store: int = 0
    visual_tokens: float = 0
    new_tokens: int = 0
    encode_seconds: float = 0.0
    generate_seconds: float = 0.0

    @property
    def encodes_saved(self) -> int:
        """Passes through the vision tower that sharing images, and a store of them, have saved."""
        return self.image_uses - self.images_encoded
