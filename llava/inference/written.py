"""A question becomes the text that the model reads: template, system text, earlier turns, places of images."""

from __future__ import annotations

import dataclasses
from typing import Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import Conversation, SeparatorStyle, conversation_template
from llava.inference.question import Question
from llava.inference.visuals import video_places
from llava.prompts.around import check_text, place_images


def written(question: Question, conv_mode: str, config: Any) -> str:
    """The whole prompt, `<image>` in place of each image, several for a video.

    Args:
        question: What is asked.
        conv_mode: Name of the template.
        config: The model's.

    Raises:
        ValueError: A text names another number of images than there are, or is not Unicode.
    """
    conv = conversation_template(conv_mode).copy()
    if question.system is not None:
        conv = with_system(conv, question.system)
    videos = video_places(question.images, config)
    earlier = 0
    for text, answer in question.earlier:
        images = text.count(DEFAULT_IMAGE_TOKEN)
        conv.append_message(conv.roles[0], place_images(text, images, config))
        conv.append_message(conv.roles[1], _without_places(answer, "an answer"))
        earlier += images
    here = len(question.images) - earlier
    if here < 0 or any(place < earlier for place in videos):
        raise ValueError(
            f"the turns before the question name {earlier} {DEFAULT_IMAGE_TOKEN}, and {len(question.images)} images "
            "are given, of which the first must be theirs, and no videos"
        )
    videos = {place - earlier: tokens for place, tokens in videos.items()}
    conv.append_message(conv.roles[0], place_images(question.text, here, config, videos))
    conv.append_message(conv.roles[1], None)
    return conv.get_prompt()


def with_system(conv: Conversation, text: str) -> Conversation:
    """A template with another system text, inside the same markup.

    Where the template's roles open with markup, as `<|im_start|>user`, its system text opens with the same.

    Args:
        conv: A copy; it may be changed.
        text: The system text.

    Raises:
        ValueError: It names an image, is not Unicode, or the template has no place for it.
    """
    text = _without_places(text, "a system text")
    if conv.sep_style is SeparatorStyle.LLAMA_2 or conv.roles[0].isalpha():
        return dataclasses.replace(conv, system=text)
    opens = conv.roles[0].replace("user", "system")
    if opens != conv.roles[0] and conv.system.startswith(opens):
        # A template read off a tokenizer closes its system text inside `system`; the others close it with `sep`.
        closes = conv.sep if conv.sep_style is SeparatorStyle.MARKED else ""
        return dataclasses.replace(conv, system=opens + text + closes)
    raise ValueError("this model's template has no place for a system text; say it in the first message")


def _without_places(text: str, what: str) -> str:
    check_text(text)
    if DEFAULT_IMAGE_TOKEN in text:
        raise ValueError(f"{what} cannot name {DEFAULT_IMAGE_TOKEN}: {text[:80]!r}")
    return text
