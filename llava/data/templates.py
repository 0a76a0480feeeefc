"""A conversation becomes ids and labels: the template says which spans are learned, the tokenizer where they are.

LLaVA counts the tokens of every round again to find where an answer begins, once per template. Here a template only
cuts the prompt into spans, and a token is learned if the character it starts at belongs to a target span. The prompt
is tokenised whole, so the ids are those that the model sees at inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import Conversation, SeparatorStyle, Span, conv_templates

Role = Literal["human", "gpt"]
_ROLES: tuple[Role, Role] = ("human", "gpt")


@dataclass(frozen=True)
class Turn:
    """One message of a conversation, in the words of LLaVA's JSON (`from`, `value`)."""

    role: Role
    text: str


class PromptTemplate(Protocol):
    """What training needs to know of a prompt format."""

    def check(self, turns: Sequence[Turn]) -> None:
        """Raises ValueError if a conversation does not fit the template."""
        ...

    def spans(self, turns: Sequence[Turn]) -> list[Span]:
        """Cuts the prompt of a conversation into spans whose texts, joined, are the prompt."""
        ...


@dataclass(frozen=True)
class ConversationTemplate:
    """Any template of `llava.conversation`: the assistant's answers are learned, with their closing separator.

    The space between "ASSISTANT:" and an answer belongs to the answer's first token, so it is learned too.
    """

    conversation: Conversation

    def check(self, turns: Sequence[Turn]) -> None:
        """Implements `PromptTemplate`; the turns must alternate, the human first."""
        for number, turn in enumerate(turns):
            if turn.role != _ROLES[number % 2]:
                raise ValueError(f"turn {number} is from {turn.role!r}; human and gpt must take turns, human first")

    def spans(self, turns: Sequence[Turn]) -> list[Span]:
        """Implements `PromptTemplate`."""
        self.check(turns)
        conversation = self.conversation.copy()
        conversation.messages = []  # some templates open with an example
        for number, turn in enumerate(turns):
            conversation.append_message(conversation.roles[number % 2], turn.text)
        spans: list[Span] = []
        for span in conversation.spans():
            if span.is_answer and spans and spans[-1].text.endswith(" "):
                spans[-1] = Span(spans[-1].text[:-1], False)
                span = Span(" " + span.text, True)
            spans.append(span)
        return spans


@dataclass(frozen=True)
class PlainTemplate:
    """LLaVA's stage 1: the image, then its caption; the question is not used."""

    separator: str = "\n"

    def check(self, turns: Sequence[Turn]) -> None:
        """Implements `PromptTemplate`; a question that holds the image, and its answer."""
        if [turn.role for turn in turns] != ["human", "gpt"]:
            raise ValueError("the plain template takes one question and one answer; use --version v1 for conversations")
        if DEFAULT_IMAGE_TOKEN not in turns[0].text:
            raise ValueError("the plain template needs an image; text-only samples want --version v1")

    def spans(self, turns: Sequence[Turn]) -> list[Span]:
        """Implements `PromptTemplate`."""
        self.check(turns)
        images = turns[0].text.count(DEFAULT_IMAGE_TOKEN)
        return [Span(DEFAULT_IMAGE_TOKEN * images, False), Span(turns[1].text + self.separator, True)]


_TRAINABLE_STYLES = (SeparatorStyle.TWO, SeparatorStyle.MPT, SeparatorStyle.LLAMA_2)


def _is_trainable(conversation: Conversation) -> bool:
    return conversation.sep_style in (*_TRAINABLE_STYLES, SeparatorStyle.PLAIN)


def get_template(version: str) -> PromptTemplate:
    """The template that `--version` names.

    Raises:
        ValueError: No such template, or one without a training form.
    """
    conversation = conv_templates.get(version)
    if conversation is None or not _is_trainable(conversation):
        known = sorted(name for name, conv in conv_templates.items() if _is_trainable(conv))
        raise ValueError(f"--version {version!r} is not a training template; known: {', '.join(known)}")
    if conversation.sep_style == SeparatorStyle.PLAIN:
        return PlainTemplate(separator=conversation.sep)
    return ConversationTemplate(conversation)


def place_images(turns: Sequence[Turn], num_images: int) -> list[Turn]:
    """Puts the placeholders where LLaVA's training puts them.

    With one image, a message that holds `<image>` begins with it, on a line of its own. With several images the
    placeholders stay where they are.

    Raises:
        ValueError: The placeholders are not as many as the images.
    """
    placed: list[Turn] = []
    for turn in turns:
        text = turn.text
        if num_images == 1 and DEFAULT_IMAGE_TOKEN in text:
            rest = text.replace(DEFAULT_IMAGE_TOKEN, "").strip()
            text = f"{DEFAULT_IMAGE_TOKEN}\n{rest}".strip()
        placed.append(Turn(turn.role, text))
    found = sum(turn.text.count(DEFAULT_IMAGE_TOKEN) for turn in placed)
    if found != num_images:
        raise ValueError(f"{found} {DEFAULT_IMAGE_TOKEN} in the conversation for {num_images} image(s)")
    return placed


def encode_spans(spans: Sequence[Span], tokenizer: Any, *, has_image: bool) -> tuple[list[int], list[int]]:
    """Tokenises a prompt and labels what is learned.

    Args:
        spans: Of a `PromptTemplate`.
        tokenizer: Of `llava.tokenization.load_tokenizer`; must know character offsets.
        has_image: `<image>` stands for an image (else it is text like any other).

    Returns:
        Ids, `IMAGE_TOKEN_INDEX` where an image stands, and labels, `IGNORE_INDEX` where nothing is learned.
    """
    text = "".join(span.text for span in spans)
    learned = b"".join(bytes([span.is_answer]) * len(span.text) for span in spans)  # one flag a character
    ids: list[int] = []
    labels: list[int] = []
    start = 0
    for number, chunk in enumerate(text.split(DEFAULT_IMAGE_TOKEN) if has_image else [text]):
        if number:
            ids.append(IMAGE_TOKEN_INDEX)
            labels.append(IGNORE_INDEX)
        encoded = tokenizer(chunk, return_offsets_mapping=True)
        for token, (begin, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            is_added = begin == end  # a special token of the tokenizer's own, such as BOS, covers no character
            if is_added and number:
                continue
            ids.append(token)
            labels.append(token if not is_added and learned[start + begin] else IGNORE_INDEX)
        start += len(chunk) + len(DEFAULT_IMAGE_TOKEN)
    return ids, labels
