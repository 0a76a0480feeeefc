"""What several prompts begin with, system prompt and perhaps images, as keys and values that are computed once.

Shapes: B prompts, L tokens of a prefix, H key-value heads, d channels a head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from llava.constants import IMAGE_TOKEN_INDEX
from llava.prompts.around import pad_left

# Ids of a prefix, and the images in it: prompts that agree in both have the same keys and values there.
PrefixKey = tuple[tuple[int, ...], tuple[str, ...]]

_WORTH_SHARING = 0.1  # of a prompt; for less text a pass of its own and a mask are not worth it


@dataclass(frozen=True)
class PromptPrefix:
    """The keys and values of one prefix, positions counted from its first token.

    Attributes:
        layers: For each decoder layer (2, H, L, d): keys, then values.
    """

    layers: tuple[Tensor, ...]

    @property
    def length(self) -> int:
        """L."""
        return int(self.layers[0].shape[2])


@dataclass
class PrefixStore:
    """The prefixes that questions still to be answered need.

    Attributes:
        uses: How often each is still needed.
        kept: Those that are computed.
    """

    uses: Counter[PrefixKey]
    kept: dict[PrefixKey, PromptPrefix] = field(default_factory=dict)

    def release(self, keys: Iterable[PrefixKey]) -> None:
        """Says that a question that needed these is answered."""
        for key in keys:
            self.uses[key] -= 1
            if self.uses[key] <= 0:
                self.kept.pop(key, None)


def shared_prefixes(
    prompts: Sequence[tuple[Sequence[int], Sequence[str], int]], *, text_too: bool, images_too: bool = True
) -> list[PrefixKey | None]:
    """What each prompt has in common with another one: all up to the last image, else the text before the first.

    Args:
        prompts: Ids, -200 for each image; the images by name; how many tokens the prompt has with them.
        images_too: Whether what a prompt has up to its last image may be shared, or only the text before the first.
        text_too: Whether text alone is shared. A single prompt is attended to faster as a whole, without a mask.

    Returns:
        For each prompt the longest prefix that another one begins with too, None if there is none.
    """
    candidates = []
    for ids, images, length in prompts:
        end = prefix_length(ids)
        text = tuple(ids[: ids.index(IMAGE_TOKEN_INDEX)]) if end else ()
        keys: list[PrefixKey] = [(tuple(ids[:end]), tuple(images))] if end and images_too else []
        if text_too and text and len(text) >= _WORTH_SHARING * length:
            keys.append((text, ()))
        candidates.append(keys)
    uses = Counter(key for keys in candidates for key in keys)
    chosen = [next((key for key in keys if uses[key] > 1), None) for keys in candidates]
    taken = Counter(chosen)
    return [key if taken[key] > 1 else None for key in chosen]


def prefix_length(input_ids: Sequence[int]) -> int:
    """How many ids of a prompt come before what follows its last image; 0 without an image."""
    return next((place for place in range(len(input_ids), 0, -1) if input_ids[place - 1] == IMAGE_TOKEN_INDEX), 0)


def supports_prefixes(model: Any) -> bool:
    """Whether the keys and values of a prefix can be laid side by side: no layer has a sliding window."""
    return not any(layer.is_sliding for layer in DynamicCache(config=model.config.get_text_config()).layers)


@torch.inference_mode()
def compute_prefixes(
    model: Any, prompts: Sequence[Sequence[int]], image_features: Sequence[Tensor]
) -> list[PromptPrefix]:
    """Runs the language model over prefixes, all of them in one pass.

    Args:
        model: A LLaVA model.
        prompts: Ids of each prefix, -200 for each image; none is empty.
        image_features: From `encode_images`, in the order of the placeholders.
    """
    ids, mask = (part.to(model.device) for part in pad_left(prompts, 0))
    embeds, sequence = model.embed_prompts(ids, image_features=image_features, attention_mask=mask, padding_side="left")
    cache = DynamicCache(config=model.config.get_text_config())
    model.get_model()(  # without the head, also inside peft's wrapper
        inputs_embeds=embeds,
        attention_mask=sequence.attention_mask,
        position_ids=sequence.position_ids,
        past_key_values=cache,
        use_cache=True,
    )
    padding = (sequence.attention_mask == 0).sum(dim=1).tolist()
    return [prefix_in(cache, row, start, embeds.shape[1]) for row, start in enumerate(padding)]


def prefix_in(cache: Cache, row: int, start: int, end: int) -> PromptPrefix:
    """What a cache holds of one sample from place `start` up to `end`, copied."""
    return PromptPrefix(
        tuple(torch.stack([layer.keys[row, :, start:end], layer.values[row, :, start:end]]) for layer in cache.layers)
    )


def fill_cache(cache: Cache, prefixes: Sequence[PromptPrefix | None]) -> Tensor:
    """Lays prefixes side by side in an empty cache, padded on the left.

    Args:
        cache: Of the model that the prefixes are of; filled in place.
        prefixes: One for each of the B prompts, at least one of them not None, which is a prefix of no tokens.

    Returns:
        (B, longest L), int64, 1 where the cache holds a token.
    """
    distinct = list({id(prefix): prefix for prefix in prefixes if prefix is not None}.values())
    place = {id(prefix): number for number, prefix in enumerate(distinct)}
    lengths = [0 if prefix is None else prefix.length for prefix in prefixes]
    longest = max(lengths)
    device = distinct[0].layers[0].device
    # A prompt without a prefix takes the last row, which stays empty.
    source = torch.tensor([place.get(id(prefix), len(distinct)) for prefix in prefixes], device=device)
    for number, like in enumerate(distinct[0].layers):
        rows = like.new_zeros(2, len(distinct) + int(None in prefixes), like.shape[1], longest, like.shape[3])
        for row, prefix in enumerate(distinct):
            rows[:, row, :, longest - prefix.length :] = prefix.layers[number]
        keys, values = rows.index_select(1, source.to(like.device))  # (B, H, longest, d) each
        cache.update(keys, values, number)
    mask = torch.arange(longest) >= longest - torch.tensor(lengths).unsqueeze(1)
    return mask.to(torch.int64)
