"""The messages of a request become a question: system text, earlier turns, and the turn that is to be answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_PLACEHOLDER
from llava.inference import Question
from llava.serve.api.errors import invalid
from llava.serve.api.limits import Limits
from llava.serve.api.request import ImagePart, Message, TextPart

_SYSTEM = ("system", "developer")


@dataclass
class _Turn:
    """What one side says until the other one speaks: one message, or several in a row."""

    role: str
    texts: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def text(self, place: int) -> str:
        """The words, with a place for each image: in front, unless they say where."""
        words = "\n".join(self.texts).replace(IMAGE_PLACEHOLDER, DEFAULT_IMAGE_TOKEN)
        named = words.count(DEFAULT_IMAGE_TOKEN)
        if not named:
            return f"{DEFAULT_IMAGE_TOKEN}\n" * len(self.urls) + words
        if self.role != "user" or named != len(self.urls):
            raise invalid(
                f"message {place + 1} names {named} {DEFAULT_IMAGE_TOKEN} in its text and has {len(self.urls)} images; "
                "name each once, or none",
                "messages",
            )
        return words


def make_question(messages: Sequence[Message], limits: Limits) -> Question:
    """What the model is asked; its images are URLs, which are still to be read.

    Args:
        messages: Of the request.
        limits: Images and characters.

    Raises:
        ApiError: The messages are no conversation that the user has the last word in, or are beyond a limit.
    """
    turns = _turns(messages)
    system = "\n".join(text for turn in turns if turn.role == "system" for text in turn.texts)
    talk = [turn for turn in turns if turn.role != "system"]
    if any(turn.role == "system" for turn in turns[1:]):
        raise invalid("system messages come first", "messages")
    if not talk or len(talk) % 2 == 0 or talk[0].role != "user":
        raise invalid("the first message behind the system text, and the last one, must be the user's", "messages")
    urls = [url for turn in talk for url in turn.urls]
    if len(urls) > limits.images:
        raise invalid(f"{len(urls)} images are more than this server's {limits.images} a request", "messages")
    if sum(len(text) for turn in turns for text in turn.texts) > limits.text_characters:
        raise invalid(f"the texts have more than {limits.text_characters} characters", "messages")
    for place, turn in enumerate(talk):
        if not turn.urls and not "".join(turn.texts).strip():
            raise invalid(f"message {place + 1} of the conversation is empty", "messages")
    texts = [turn.text(place) for place, turn in enumerate(talk)]
    earlier = tuple(zip(texts[:-1:2], texts[1::2], strict=True))
    return Question(texts[-1], tuple(urls), earlier, system or None)


def _turns(messages: Sequence[Message]) -> list[_Turn]:
    turns: list[_Turn] = []
    for message in messages:
        role = "system" if message.role in _SYSTEM else message.role
        if not turns or turns[-1].role != role:
            turns.append(_Turn(role))
        content = message.content or ""
        for part in [TextPart(type="text", text=content)] if isinstance(content, str) else content:
            if isinstance(part, ImagePart):
                if role != "user":
                    raise invalid(f"only the user's messages have images, not one of {role}", "messages")
                turns[-1].urls.append(part.image_url.url)
            else:
                turns[-1].texts.append(part.text)
    return turns
