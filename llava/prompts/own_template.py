"""A tokenizer's own chat template, read off as a conversation template: for models whose template is not known here."""

from __future__ import annotations

import hashlib
import logging
import re
from typing import Any

from llava.conversation import (
    Conversation,
    SeparatorStyle,
    conv_templates,
    conversation_template,
    default_conv_mode,
    register_template,
)
from llava.kinds.languages import find_language

logger = logging.getLogger(__name__)

OWN = "tokenizer"  # `--conv-mode tokenizer` asks for it by hand
_OWN_NAME = re.compile(rf"{OWN}(-[0-9a-f]{{8}})?")
_FIRST, _ANSWER, _SECOND = "firstquestion", "firstanswer", "secondquestion"


def conv_mode_for(config: Any, tokenizer: Any, named: str | None = None) -> str:
    """Name of the template that a model is asked in; `conversation_template` knows it afterwards.

    Args:
        config: The model's.
        tokenizer: The model's.
        named: What the user asks for; `tokenizer` is the tokenizer's own chat template. None: that of the config or
            the language model (`default_conv_mode`), and where none is known the tokenizer's own, which is said.

    Raises:
        ValueError: There is no template of that name; or none is known and the tokenizer has none that can be used.
    """
    wanted = named if named is not None else getattr(config, "conv_mode", None)
    if isinstance(wanted, str) and _OWN_NAME.fullmatch(wanted):
        own = _registered(tokenizer)
        if wanted not in (OWN, own):
            raise ValueError(f"the template {wanted!r} is that of another tokenizer; this one's own is {own!r}")
        return own
    if named is not None:
        conversation_template(named)  # refuses an unknown name now
        return named
    language = getattr(config, "text_config", None) or config
    if getattr(config, "conv_mode", None) is not None or find_language(language) is not None:
        return default_conv_mode(config)
    try:
        mode = _registered(tokenizer)
    except ValueError as error:
        try:
            return default_conv_mode(config)  # says what is not known, and what can be done
        except ValueError as unknown:
            raise ValueError(f"{unknown}. {error}") from error
    logger.warning(
        "no conversation template is known for model_type=%r with vocab_size=%s, so the tokenizer's own chat_template "
        "is used; --conv-mode names another",
        getattr(language, "model_type", None),
        getattr(language, "vocab_size", None),
    )
    return mode


def reads_tokenizer(config: Any, named: str | None = None) -> bool:
    """Whether `conv_mode_for` asks the tokenizer; arguments as there."""
    wanted = named if named is not None else getattr(config, "conv_mode", None)
    if wanted is not None:
        return isinstance(wanted, str) and _OWN_NAME.fullmatch(wanted) is not None
    return find_language(getattr(config, "text_config", None) or config) is None


def _registered(tokenizer: Any) -> str:
    """Makes the tokenizer's template known by a name of its own, that of its text."""
    text = getattr(tokenizer, "chat_template", None)
    if not text:
        raise ValueError("The tokenizer has no chat_template of its own either")
    name = f"{OWN}-{hashlib.sha256(str(text).encode()).hexdigest()[:8]}"
    if name not in conv_templates:
        register_template(name, read_off(tokenizer))
    return name


def read_off(tokenizer: Any) -> Conversation:
    """The conversation template that a tokenizer's chat template amounts to, found by what it writes around turns.

    transformers renders the template, in its sandbox.

    Raises:
        ValueError: It cannot be rendered, or is none of turns that open and end in the same way each time.
    """
    try:
        asked = _render(tokenizer, 1, opens=False)
        opened = _render(tokenizer, 1, opens=True)
        answered = _render(tokenizer, 2, opens=False)
        again = _render(tokenizer, 3, opens=True)
    except Exception as error:  # of Jinja, or what a template itself raises
        raise ValueError(f"The tokenizer's own chat_template cannot be rendered: {error}") from error
    before, _, after_user = asked.partition(_FIRST)
    end = answered.removeprefix(opened + _ANSWER)
    reopens = again.removeprefix(answered).partition(_SECOND)[0]
    begins = getattr(tokenizer, "bos_token", None) or ""
    adds_it = bool(begins) and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
    made = Conversation(
        system=before.removesuffix(reopens).removeprefix(begins if adds_it else ""),
        roles=(reopens, opened.removeprefix(asked)),
        messages=(),
        offset=0,
        sep_style=SeparatorStyle.MARKED,
        sep=after_user,
        sep2=end,
        version=OWN,
    )
    conv = made.copy()
    for role, text in zip((*conv.roles, *conv.roles), (_FIRST, _ANSWER, _SECOND, None), strict=True):
        conv.append_message(role, text)
    if conv.get_prompt() != again.removeprefix(begins if adds_it else "") or len(set(made.roles)) < 2:
        raise ValueError("The tokenizer's own chat_template writes turns in ways that are not known here")
    return made


def _render(tokenizer: Any, turns: int, *, opens: bool) -> str:
    """A conversation of so many turns as the template writes it, the next answer opened or not."""
    texts = (("user", _FIRST), ("assistant", _ANSWER), ("user", _SECOND))
    messages = [{"role": role, "content": text} for role, text in texts[:turns]]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens))


__all__ = ["OWN", "conv_mode_for", "read_off"]
