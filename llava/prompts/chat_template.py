"""A conversation template as the Jinja text that transformers' `apply_chat_template` renders, to the same prompt."""

from __future__ import annotations

import dataclasses
import json
import re

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import Conversation, SeparatorStyle, conversation_template

_SYSTEM_HERE = "\0"

# A message's content is a text, or a list of parts; an image stands on a line of its own, as LLaVA's training has it.
_SHARED = """\
{%- macro words(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part['type'] == 'image' -%}
                {{- IMAGE -}}
            {%- elif part['type'] == 'text' -%}
                {{- part['text'] -}}
            {%- else -%}
                {{- raise_exception('content of type ' ~ part['type'] ~ ': there are text and image') -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set system = SYSTEM -%}
{%- set turns = messages -%}
{%- if messages and messages[0]['role'] == 'system' -%}
    {%- set system = words(messages[0]['content']) -%}
    {%- set turns = messages[1:] -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if turn['role'] != ('user' if loop.index0 is even else 'assistant') -%}
        {{- raise_exception('roles must alternate, user first; message ' ~ loop.index ~ ' is of ' ~ turn['role']) -}}
    {%- endif -%}
{%- endfor -%}
"""

_LABELLED = """\
{{- BEFORE_SYSTEM ~ system ~ AFTER_SYSTEM -}}
{%- for turn in turns -%}
    {%- if turn['role'] == 'user' -%}
        {{- USER ~ words(turn['content']) ~ AFTER_USER -}}
    {%- else -%}
        {{- ASSISTANT ~ words(turn['content']) ~ AFTER_ASSISTANT -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- OPEN -}}
{%- endif -%}
"""

_INSTRUCT = """\
{%- for turn in turns -%}
    {%- if turn['role'] == 'user' -%}
        {{- (AFTER_ASSISTANT_TURN if not loop.first else '') ~ '[INST] ' -}}
        {%- if loop.first and system -%}
            {{- '<<SYS>>\\n' ~ system ~ '\\n<</SYS>>\\n\\n' -}}
        {%- endif -%}
        {{- words(turn['content']) ~ ' [/INST]' -}}
    {%- else -%}
        {{- ' ' ~ words(turn['content']) ~ AFTER_ASSISTANT -}}
    {%- endif -%}
{%- endfor -%}
"""


def chat_template(conv_mode: str, image: str = DEFAULT_IMAGE_TOKEN) -> str:
    """Writes a conversation template as a chat template: the same prompts, `messages` in place of `append_message`.

    A first message of role `system` replaces the template's own system text.

    Args:
        conv_mode: A name in `conv_templates`.
        image: What stands for an image; a line break follows it.

    Raises:
        ValueError: There is no template of that name.
    """
    conv = conversation_template(conv_mode)
    if conv.sep_style == SeparatorStyle.LLAMA_2:
        entries = {"SYSTEM": conv.system, "AFTER_ASSISTANT_TURN": conv.sep, "AFTER_ASSISTANT": f" {conv.sep2}"}
        body = _INSTRUCT
    else:
        entries, body = _labels(conv), _LABELLED
    entries["IMAGE"] = f"{image}\n"
    names = re.compile(rf"\b({'|'.join(entries)})\b")
    return names.sub(lambda name: _quoted(entries[name[1]]), _SHARED + body)


def _labels(conv: Conversation) -> dict[str, str]:
    """What stands around each turn where turns are labelled by their roles, or by nothing."""
    marker, system = _system_of(conv)
    opened = dataclasses.replace(conv, system=marker + _SYSTEM_HERE).copy().get_prompt()
    before, _, after = opened.partition(_SYSTEM_HERE)
    user, assistant = conv.roles
    if conv.sep_style == SeparatorStyle.MARKED:
        labels = {"USER": user, "AFTER_USER": conv.sep, "ASSISTANT": assistant}
        labels |= {"AFTER_ASSISTANT": conv.sep2 or "", "OPEN": assistant}
    elif conv.sep_style == SeparatorStyle.MPT:
        end = conv.sep + (conv.sep2 or "")
        labels = {"USER": user, "AFTER_USER": end, "ASSISTANT": assistant, "AFTER_ASSISTANT": end, "OPEN": assistant}
    else:
        colon = "" if conv.sep_style == SeparatorStyle.PLAIN else ":"
        two = conv.sep_style in (SeparatorStyle.TWO, SeparatorStyle.PLAIN) and conv.sep2
        labels = {
            "USER": f"{user}{colon}{' ' if colon else ''}",
            "AFTER_USER": conv.sep,
            "ASSISTANT": f"{assistant}{colon}{' ' if colon else ''}",
            "AFTER_ASSISTANT": str(conv.sep2) if two else conv.sep,
            "OPEN": f"{assistant}{colon}",
        }
    return {"SYSTEM": system, "BEFORE_SYSTEM": before, "AFTER_SYSTEM": after, **labels}


def _system_of(conv: Conversation) -> tuple[str, str]:
    """The marker that opens the system's turn, where a template has one, and the system text."""
    if conv.sep_style != SeparatorStyle.MPT:
        return "", conv.system
    line, breaks, text = conv.system.partition("\n")
    return line + breaks + text[: len(text) - len(text.lstrip("\n"))], text.lstrip("\n")


def _quoted(text: str) -> str:
    """A text as Jinja writes it."""
    return json.dumps(text, ensure_ascii=False)
