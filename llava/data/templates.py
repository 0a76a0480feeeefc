"""A conversation becomes ids and labels: the template says which spans are learned, the tokenizer where they are.

LLaVA counts the tokens of every round again to find where an answer begins, once per template. Here a template only
cuts the prompt into spans, and a token is learned if its characters belong to a target span. The prompt is tokenised
whole, so the ids are those that the model sees at inference. Only where a token would be half question and half answer
(byte-level tokenizers join line ends) the prompt is cut at the border, as it is at inference, where the prompt ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import Conversation, SeparatorStyle, Span, conv_templates
from llava.kinds.plugins import discover_plugins

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


_TRAINABLE_STYLES = (SeparatorStyle.TWO, SeparatorStyle.MPT, SeparatorStyle.LLAMA_2, SeparatorStyle.MARKED)
_TAGGED = "v1_mmtag"  # puts <Image>...</Image> around images when it is asked, which is not done here


def _is_trainable(conversation: Conversation) -> bool:
    return conversation.version != _TAGGED and conversation.sep_style in (*_TRAINABLE_STYLES, SeparatorStyle.PLAIN)


def get_template(version: str) -> PromptTemplate:
    """The template that `--version` names.

    Raises:
        ValueError: No such template, or one without a training form.
    """
    discover_plugins()
    conversation = conv_templates.get(version)
    if version == _TAGGED:
        raise ValueError(f"--version {version} is for inference: training does not put its tags around images; use v1")
    if conversation is None or not _is_trainable(conversation):
        known = sorted(name for name, conv in conv_templates.items() if _is_trainable(conv))
        raise ValueError(f"--version {version!r} is not a training template; known: {', '.join(known)}")
    if conversation.sep_style == SeparatorStyle.PLAIN:
        return PlainTemplate(separator=conversation.sep)
    return ConversationTemplate(conversation)


def closing_separator(template: PromptTemplate) -> str:
    """What follows an answer and is learned with it, white space aside: `</s>`, `<|im_end|>`...; empty without one."""
    if not isinstance(template, ConversationTemplate):
        return ""
    last = [span.text for span in template.spans([Turn("human", "?"), Turn("gpt", "!")]) if span.is_answer][-1]
    return last.rpartition("!")[2].strip()


def move_images_to_front(turns: Sequence[Turn], num_images: int) -> list[Turn]:
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
        advice = "" if found else "; `llava convert DATA --image-first --output NEW.json` puts it in front"
        raise ValueError(f"{found} {DEFAULT_IMAGE_TOKEN} in the conversation for {num_images} image(s){advice}")
    return placed


def encode_spans(spans: Sequence[Span], tokenizer: Any, *, has_image: bool) -> tuple[list[int], list[int]]:
    """Tokenises a prompt and labels what is learned.

    Args:
        spans: Of a `PromptTemplate`.
        tokenizer: Of `llava.prompts.tokenization.load_tokenizer`; must know character offsets.
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
        flags = learned[start : start + len(chunk)]
        for token, is_learned in _encode_chunk(chunk, flags, tokenizer, is_first=number == 0):
            ids.append(token)
            labels.append(token if is_learned else IGNORE_INDEX)
        start += len(chunk) + len(DEFAULT_IMAGE_TOKEN)
    return ids, labels


def _encode_chunk(chunk: str, flags: bytes, tokenizer: Any, *, is_first: bool) -> list[tuple[int, bool]]:
    """The tokens of a text between images, each with whether it is learned.

    Args:
        chunk: The text.
        flags: 1 for each of its characters that is learned.
        tokenizer: As above.
        is_first: Whether the prompt begins here; else the tokens that the tokenizer adds, such as BOS, are left out.
    """
    done: list[tuple[int, bool]] = []
    pieces = [(chunk, flags, is_first)]
    while pieces:
        text, learned, keeps_added = pieces.pop()
        encoded = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
        found = list(zip(encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True))
        borders = {_border(learned, begin, end) for _, (begin, end), is_added in found if not is_added}
        if borders - {None}:
            cuts = [0, *sorted(border for border in borders if border is not None), len(text)]
            parts = [(text[a:b], learned[a:b], keeps_added and a == 0) for a, b in itertools.pairwise(cuts)]
            pieces.extend(reversed(parts))
            continue
        for token, (begin, _), is_added in found:
            if keeps_added or not is_added:
                done.append((token, not is_added and learned[begin : begin + 1] == b"\1"))
    return done


def _border(learned: bytes, begin: int, end: int) -> int | None:
    """Where in [begin, end) learned characters meet others, None if they do not."""
    if end - begin < 2 or learned.count(learned[begin], begin, end) == end - begin:
        return None
    return next(place for place in range(begin + 1, end) if learned[place] != learned[begin])
