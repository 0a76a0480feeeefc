"""Conversations and the prompt templates that LLaVA's checkpoints were tuned with.

The system texts, roles and separators are those of haotian-liu/LLaVA (Apache-2.0) and, through it, of FastChat: a model
answers well only to the exact strings it has seen, so they are kept verbatim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation_texts import (
    CHAT_WITH_HUMAN,
    CHAT_WITH_MM_TAG,
    CHAT_WITH_USER,
    LLAMA_2_SYSTEM,
    LLAVA_LLAMA_2_SYSTEM,
    MPT_SYSTEM,
    V0_EXAMPLE_ANSWER,
)
from llava.kinds.languages import find_language
from llava.kinds.plugins import discover_plugins
from llava.kinds.registry import Registry


class SeparatorStyle(Enum):
    """How roles, messages and separators become one text."""

    SINGLE = auto()
    TWO = auto()
    MPT = auto()
    PLAIN = auto()
    LLAMA_2 = auto()
    MARKED = auto()


class Span(NamedTuple):
    """A piece of a prompt, and whether the assistant says it (so that training may take it for a target)."""

    text: str
    is_answer: bool


@dataclasses.dataclass
class Conversation:
    """A system text, two roles, and what they have said so far.

    A message is a text; a tuple (text, image, image_process_mode) as LLaVA's demos make it; or None for the turn that
    the model is to take. Those in `conv_templates` are shared: work on a `copy()`.

    Attributes:
        system: What precedes the first turn.
        roles: The user's and the assistant's name, as the prompt spells them.
        messages: [role, message] pairs.
        offset: How many leading messages are an example and not shown to users.
        sep_style: How the parts are put together.
        sep: The separator, after the user's turns where there are two.
        sep2: The separator after the assistant's turns; with MPT's style what stands between turns.
        version: The template's family.
        skip_next: A flag that LLaVA's demos keep here.
    """

    system: str
    roles: Sequence[str]
    messages: Sequence[Any]
    offset: int
    sep_style: SeparatorStyle = SeparatorStyle.SINGLE
    sep: str = "###"
    sep2: str | None = None
    version: str = "Unknown"
    skip_next: bool = False

    def get_prompt(self) -> str:
        """Return the whole conversation as the text that the model reads."""
        return "".join(span.text for span in self.spans())

    def spans(self) -> list[Span]:
        """Return the prompt in pieces, each either said by the assistant (with its closing separator) or not."""
        return list(_RENDERERS[self.sep_style](self, self._turns()))

    def _turns(self) -> list[tuple[str, str | None]]:
        """Return (role, text) pairs; an image that opens the conversation is put before its question."""
        turns = [(role, message[0] if isinstance(message, tuple) else message) for role, message in self.messages]
        if self.messages and isinstance(self.messages[0][1], tuple):
            role, text = turns[0]
            text = (text or "").replace(DEFAULT_IMAGE_TOKEN, "").strip()
            if self.version.endswith("mmtag"):
                shown = [(self.roles[0], f"<Image>{DEFAULT_IMAGE_TOKEN}</Image>"), (self.roles[1], "Received.")]
                return [*shown, (role, text), *turns[1:]]
            turns[0] = (role, f"{DEFAULT_IMAGE_TOKEN}\n{text}")
        return turns

    def append_message(self, role: str, message: Any) -> None:
        """Add a turn; None as the message leaves it open for the model.

        Raises:
            TypeError: This is a shared template and not a copy of one.
        """
        if not isinstance(self.messages, list):
            raise TypeError("this conversation is a shared template: take a `.copy()` and append to that.")
        self.messages.append([role, message])

    def copy(self) -> Conversation:
        """Return a conversation of its own that starts from this one."""
        return dataclasses.replace(self, messages=[[role, message] for role, message in self.messages], skip_next=False)

    def dict(self) -> Mapping[str, Any]:
        """Return what can be written as JSON, without the images."""
        return {
            "system": self.system,
            "roles": self.roles,
            "messages": [[role, text[0] if isinstance(text, tuple) else text] for role, text in self.messages],
            "offset": self.offset,
            "sep": self.sep,
            "sep2": self.sep2,
        }


# The renderers: one function a style. Each yields the pieces of the prompt; a turn without text is the open one.
_Turns = Sequence[tuple[str, str | None]]


def _labelled(conversation: Conversation, turns: _Turns, separators: Sequence[str]) -> Iterator[Span]:
    """`ROLE: text` turns, the separators used in rotation."""
    yield Span(conversation.system + separators[0], False)
    for i, (role, text) in enumerate(turns):
        if not text:
            yield Span(f"{role}:", False)
            continue
        yield Span(f"{role}: ", False)
        yield Span(text + separators[i % len(separators)], role == conversation.roles[1])


def _single(conversation: Conversation, turns: _Turns) -> Iterator[Span]:
    return _labelled(conversation, turns, [conversation.sep])


def _two(conversation: Conversation, turns: _Turns) -> Iterator[Span]:
    return _labelled(conversation, turns, [conversation.sep, conversation.sep2 or conversation.sep])


def _chatml(conversation: Conversation, turns: _Turns) -> Iterator[Span]:
    """Turns that a role opens with its own marker and the separator closes; a second one stands between turns."""
    between = conversation.sep2 or ""
    yield Span(conversation.system + conversation.sep + between, False)
    for role, text in turns:
        yield Span(role, False)
        if text:
            yield Span(text + conversation.sep, role == conversation.roles[1])
            yield Span(between, False)


def _plain(conversation: Conversation, turns: _Turns) -> Iterator[Span]:
    """No roles: each text with its separator, which is the same for both where there is one only."""
    yield Span(conversation.system, False)
    separators = [conversation.sep, conversation.sep2 or conversation.sep]
    for i, (_, text) in enumerate(turns):
        if text:
            yield Span(text + separators[i % 2], i % 2 == 1)


def _llama_2(conversation: Conversation, turns: _Turns) -> Iterator[Span]:
    """Instructions in brackets; the system text inside the first. The first BOS is left to the tokenizer."""
    if turns and (not turns[0][1] or turns[0][0] != conversation.roles[0]):
        raise ValueError(f"this template's first message must be a text of {conversation.roles[0]!r}.")
    for i, (_, text) in enumerate(turns):
        if not text:
            continue
        if i == 0 and conversation.system:
            text = f"<<SYS>>\n{conversation.system}\n<</SYS>>\n\n{text}"
        if i % 2 == 0:
            yield Span(f"{conversation.sep if i else ''}[INST] {text} [/INST]", False)
        else:
            yield Span(" ", False)
            yield Span(f"{text} {conversation.sep2}", True)


def _marked(conversation: Conversation, turns: _Turns) -> Iterator[Span]:
    """Turns that a role opens with its own marker, and that end as that role's do."""
    yield Span(conversation.system, False)
    for i, (role, text) in enumerate(turns):
        yield Span(role, False)
        if text:
            end = conversation.sep if i % 2 == 0 else conversation.sep2 or ""
            yield Span(text + end, role == conversation.roles[1])


_RENDERERS: dict[SeparatorStyle, Callable[[Conversation, _Turns], Iterator[Span]]] = {
    SeparatorStyle.SINGLE: _single,
    SeparatorStyle.TWO: _two,
    SeparatorStyle.MPT: _chatml,
    SeparatorStyle.PLAIN: _plain,
    SeparatorStyle.LLAMA_2: _llama_2,
    SeparatorStyle.MARKED: _marked,
}


# The templates.
def _vicuna_v0(system: str, version: str = "Unknown", messages: Sequence[Any] = ()) -> Conversation:
    roles = ("Human", "Assistant")
    return Conversation(system, roles, messages, len(messages), SeparatorStyle.SINGLE, "###", version=version)


def _vicuna_v1(system: str, version: str = "v1") -> Conversation:
    return Conversation(system, ("USER", "ASSISTANT"), (), 0, SeparatorStyle.TWO, " ", "</s>", version)


def _instruct(system: str, sep: str) -> Conversation:
    return Conversation(system, ("USER", "ASSISTANT"), (), 0, SeparatorStyle.LLAMA_2, sep, "</s>", "llama_v2")


def _im_start(system: str) -> Conversation:
    roles = ("<|im_start|>user\n", "<|im_start|>assistant\n")
    return Conversation(system, roles, (), 0, SeparatorStyle.MPT, "<|im_end|>", version="mpt")


conv_vicuna_v0 = _vicuna_v0(
    CHAT_WITH_HUMAN,
    messages=(
        ("Human", "What are the key differences between renewable and non-renewable energy sources?"),
        ("Assistant", V0_EXAMPLE_ANSWER),
    ),
)
conv_llava_v0 = _vicuna_v0(CHAT_WITH_HUMAN)
conv_llava_v0_mmtag = _vicuna_v0(CHAT_WITH_MM_TAG, version="v0_mmtag")
conv_vicuna_v1 = _vicuna_v1(CHAT_WITH_USER)
conv_llava_v1 = _vicuna_v1(CHAT_WITH_HUMAN)
conv_llava_v1_mmtag = _vicuna_v1(CHAT_WITH_MM_TAG, version="v1_mmtag")
conv_llama_2 = _instruct(LLAMA_2_SYSTEM, "<s>")
conv_llava_llama_2 = _instruct(LLAVA_LLAMA_2_SYSTEM, "<s>")
conv_mistral_instruct = _instruct("", "")
conv_mpt = _im_start(MPT_SYSTEM)
conv_chatml_direct = _im_start("<|im_start|>system\nAnswer the questions.")
# LLaVA-NeXT's: the published chat templates of Llama-3 and Qwen1.5/2 with its system text. BOS is the tokenizer's.
conv_llava_llama_3 = Conversation(
    f"<|start_header_id|>system<|end_header_id|>\n\n{LLAVA_LLAMA_2_SYSTEM}",
    ("<|start_header_id|>user<|end_header_id|>\n\n", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    (),
    0,
    SeparatorStyle.MPT,
    "<|eot_id|>",
    version="llama_v3",
)
conv_qwen = dataclasses.replace(
    _im_start("<|im_start|>system\nYou are a helpful assistant."), sep2="\n", version="qwen"
)
conv_llava_plain = Conversation("", ("", ""), (), 0, SeparatorStyle.PLAIN, "\n")

default_conversation = conv_vicuna_v1
conv_templates: dict[str, Conversation] = {
    "default": conv_vicuna_v0,
    "v0": conv_vicuna_v0,
    "v1": conv_vicuna_v1,
    "vicuna_v1": conv_vicuna_v1,
    "llama_2": conv_llama_2,
    "mistral_instruct": conv_mistral_instruct,
    "chatml_direct": conv_chatml_direct,
    "mistral_direct": conv_chatml_direct,
    "plain": conv_llava_plain,
    "v0_plain": conv_llava_plain,
    "llava_v0": conv_llava_v0,
    "v0_mmtag": conv_llava_v0_mmtag,
    "llava_v1": conv_llava_v1,
    "v1_mmtag": conv_llava_v1_mmtag,
    "llava_llama_2": conv_llava_llama_2,
    "mpt": conv_mpt,
    "llava_llama_3": conv_llava_llama_3,
    "qwen_1_5": conv_qwen,
}
_OWN_TEMPLATES = frozenset(conv_templates)
TEMPLATES: Registry[Conversation] = Registry("conversation template")  # those of plug-ins


# ----- Looking templates up ----------------------------------------------------


def register_template(name: str, conversation: Conversation) -> Conversation:
    """Makes a template of one's own known by a name, on every command and in training.

    Raises:
        ValueError: The name is LLaVA's, or another module's.
    """
    if name in _OWN_TEMPLATES:
        raise ValueError(f"the conversation template {name!r} is LLaVA's; choose another name")
    conv_templates[name] = TEMPLATES.register(name, conversation, depth=2)
    return conversation


def conversation_template(name: str, plugin: str | None = None) -> Conversation:
    """The template of that name; shared, so work on a `copy()`.

    Args:
        name: In `conv_templates`.
        plugin: The plug-in that a config names beside it, for the message.

    Raises:
        ValueError: There is none; the message lists those there are.
    """
    if not isinstance(name, str):
        raise ValueError(f"conv_mode must be the name of a conversation template, got {name!r}")
    if name not in conv_templates:
        discover_plugins()
    if name not in conv_templates:
        where = f"it comes from the plug-in {plugin}: give it with" if plugin else "one of your own comes with"
        raise ValueError(
            f"no conversation template {name!r}; there are: {', '.join(conv_templates)}; {where} --plugin, or in "
            "LLAVA_PLUGINS"
        )
    return conv_templates[name]


def default_conv_mode(config: Any) -> str:
    """Name the template for a checkpoint whose user chose none, from its config's entries.

    An entry `conv_mode` in the config is followed; training writes it where the template is another than the language
    model's usual one. Else the language model decides (`LanguageKind.template`). Llama-2-chat and v0 checkpoints have
    configs like Vicuna's: name their template.

    Args:
        config: A LLaVA or transformers config.

    Raises:
        ValueError: The config names an unknown template, or no template is known for its language model.
    """
    chosen = getattr(config, "conv_mode", None)
    if chosen is not None:
        try:
            conversation_template(chosen, getattr(config, "conv_mode_plugin", None))
        except ValueError as error:
            raise ValueError(f"config.json: conv_mode: {error}") from error
        return str(chosen)
    language = getattr(config, "text_config", None) or config
    kind = find_language(language)
    if kind is None:
        raise ValueError(
            f"no template is known for model_type={getattr(language, 'model_type', None)!r} with "
            f"vocab_size={getattr(language, 'vocab_size', None)}: choose one with --conv-mode (or `conv_mode` in the "
            f"config) from {', '.join(conv_templates)}, or load the language model's plug-in with --plugin"
        )
    return kind.template
