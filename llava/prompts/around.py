"""Around a prompt: where its images stand, how prompts become a batch, where an answer ends."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_TOKEN,
    DEFAULT_VIDEO_TOKEN,
    IMAGE_PLACEHOLDER,
    IMAGE_TOKEN_INDEX,
)
from llava.conversation import SeparatorStyle, conversation_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLACES = re.compile(f"{DEFAULT_IMAGE_TOKEN}|{DEFAULT_VIDEO_TOKEN}")


def place_images(text: str, num_images: int, config: Any, videos: Mapping[int, int] | None = None) -> str:
    """Puts one `<image>` an image into the user's text: where the text says, else in front, each on a line.

    Args:
        text: The user's words, perhaps with `<image>` or `<image-placeholder>`, and `<video>` for a video.
        num_images: How many images there are, videos counted.
        config: The model's config; `mm_use_im_start_end` puts the start and end tokens around each image.
        videos: Which of the images are videos, and how many `<image>` each takes.

    Raises:
        ValueError: The text names another number of images, or is none that can be written (`check_text`).
    """
    check_text(text)
    text = text.replace(IMAGE_PLACEHOLDER, DEFAULT_IMAGE_TOKEN)
    if videos:
        return _place_videos(text, num_images, config, videos)
    named = text.count(DEFAULT_IMAGE_TOKEN)
    if not named:
        text = f"{DEFAULT_IMAGE_TOKEN}\n" * num_images + text
    elif named != num_images:
        raise ValueError(f"the text has {named} {DEFAULT_IMAGE_TOKEN} but {num_images} images are given: {text[:80]!r}")
    return _marked(text, config)


def _marked(text: str, config: Any) -> str:
    if getattr(config, "mm_use_im_start_end", False):
        marked = DEFAULT_IM_START_TOKEN + DEFAULT_IMAGE_TOKEN + DEFAULT_IM_END_TOKEN
        text = text.replace(DEFAULT_IMAGE_TOKEN, marked)
    return text


def _place_videos(text: str, num_images: int, config: Any, videos: Mapping[int, int]) -> str:
    """`place_images` with videos: the text names each by `<video>`, or by the `<image>`s that stand for it."""
    tokens = [DEFAULT_VIDEO_TOKEN if place in videos else DEFAULT_IMAGE_TOKEN for place in range(num_images)]
    named = _PLACES.findall(text)
    if not named:
        text = "".join(f"{token}\n" for token in tokens) + text
    elif named != tokens:
        written_out = sum(videos.get(place, 1) for place in range(num_images))
        if named != [DEFAULT_IMAGE_TOKEN] * written_out:
            raise ValueError(
                f"the text names {' '.join(named)}, but {' '.join(tokens)} are given, in this order: {text[:80]!r}"
            )
    for _, count in sorted(videos.items()):
        text = text.replace(DEFAULT_VIDEO_TOKEN, DEFAULT_IMAGE_TOKEN * count, 1)
    return _marked(text, config)


def without_images(text: str, *, videos: bool = False) -> str:
    """The user's words alone, without the places of images, and of videos where there are any."""
    text = text.replace(DEFAULT_VIDEO_TOKEN, "") if videos else text
    return text.replace(IMAGE_PLACEHOLDER, "").replace(DEFAULT_IMAGE_TOKEN, "").strip()


def check_text(text: str) -> None:
    """Refuses half characters: a byte of a command line that is no UTF-8, an escaped surrogate of a JSON file.

    Raises:
        ValueError: The text has one; no tokenizer and no file takes it.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text is not Unicode at character {error.start}, {text[error.start]!r}: {text[:80]!r}; "
            "a byte that is no UTF-8, or half of a pair"
        ) from None


def check_fits(tokens: int, config: Any, what: str, advice: str) -> None:
    """Refuses a prompt that the model would cut on the right, where the question is.

    Args:
        tokens: Its length, visual tokens counted.
        config: The model's config.
        what: What the message calls it.
        advice: What to do.

    Raises:
        ValueError: It is longer than the model sees.
    """
    limit = longest_prompt(config)
    if limit is not None and tokens > limit:
        raise ValueError(
            f"{what} would be {tokens} tokens long, images included, and the model sees {limit} "
            f"(tokenizer_model_max_length): {advice}"
        )


def pad_left(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Pads prompts on the left.

    Args:
        rows: B prompts of different lengths, images as -200.
        pad_token_id: What to pad with.

    Returns:
        `input_ids` (B, L) and `attention_mask` (B, L), int64, 0 where padded.
    """
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_token_id)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, longest - len(row) :] = torch.tensor(row)
        mask[number, longest - len(row) :] = 1
    return ids, mask


def longest_prompt(config: Any) -> int | None:
    """Tokens after which the model cuts a prompt, visual tokens counted; None where it never does."""
    limit = getattr(config, "tokenizer_model_max_length", None)
    return int(limit) if limit else None


def count_tokens(ids: Sequence[int], image_tokens: Sequence[int], limit: int | None = None) -> tuple[int, int]:
    """How long a prompt is for the language model.

    Args:
        ids: The prompt, each image one -200.
        image_tokens: Visual tokens of each image.
        limit: Only the first so many tokens count; all if None.

    Returns:
        All tokens, and the visual ones among them.
    """
    if limit is None:
        return len(ids) - len(image_tokens) + sum(image_tokens), sum(image_tokens)
    images = iter(image_tokens)
    total = visual = 0
    for token in ids:
        is_image = token == IMAGE_TOKEN_INDEX
        added = min(next(images) if is_image else 1, limit - total)
        total += added
        visual += added if is_image else 0
    return total, visual


def end_token_ids(model: Any) -> set[int]:
    """The ids at which the model's generation ends."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = getattr(model.config, "eos_token_id", None)
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)


def stop_string(conv_mode: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The separator at which a template's answers end, unless it is a special token, which ends them anyway."""
    conv = conversation_template(conv_mode)
    if conv.sep_style in (SeparatorStyle.PLAIN, SeparatorStyle.LLAMA_2):
        return None
    stop = conv.sep2 if conv.sep_style in (SeparatorStyle.TWO, SeparatorStyle.MARKED) else conv.sep
    stop = (stop or "").strip()
    return stop if stop and stop not in tokenizer.all_special_tokens else None
