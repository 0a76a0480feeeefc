"""Prompts and image features -> ids of the answers, without computing twice what prompts of a batch share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, StaticCache

from llava.inference.prefix import PrefixKey, PrefixStore, compute_prefixes, fill_cache
from llava.model.language_pruning.refusals import NEEDS_DYNAMIC_CACHE
from llava.model.restore import refusals
from llava.prompts.around import pad_left

_LENGTH_STEP = 64  # static caches are this much apart in length, so that few graphs are made
_LONGER = 1.5  # times what a batch needs, at most: attention runs over all of the cache


@dataclass(frozen=True)
class Prompt:
    """One prompt of a batch.

    Attributes:
        input_ids: The ids, -200 for each image.
        image_features: (K_i, D) of each image.
        prefix: What it begins with, for `PrefixStore`: all of the images or none. None: it is computed as a whole.
    """

    input_ids: Sequence[int]
    image_features: Sequence[Tensor]
    prefix: PrefixKey | None = None

    @property
    def length(self) -> int:
        """Tokens, those of the images included."""
        return len(self.input_ids) + sum(len(features) - 1 for features in self.image_features)

    @property
    def after_prefix(self) -> Sequence[int]:
        """The ids that follow the prefix."""
        return self.input_ids[len(self.prefix[0]) :] if self.prefix else self.input_ids

    def features(self, *, in_prefix: bool) -> Sequence[Tensor]:
        """Those of the images in the prefix, or behind it."""
        has_images = self.prefix is not None and bool(self.prefix[1])
        return self.image_features if has_images == in_prefix else ()


class Generator:
    """Generates with one model. Compiled, it keeps a static cache between calls, and with it the compiled graph."""

    def __init__(self, model: Any, pad_token_id: int, *, compile: bool = False) -> None:
        """Takes a model.

        Args:
            model: A LLaVA model.
            pad_token_id: Fills short rows; the model never sees it.
            compile: Decode with a static cache, sized by the compressed prompt, and on an accelerator with one
                compiled graph a step. The first batches of a size take long; it pays where many follow.
        """
        self.model = model
        self.pad_token_id = pad_token_id
        self.compile = compile
        self._static: tuple[int, int, StaticCache] | None = None  # batch, length

    @property
    def held_bytes(self) -> int:
        """Memory of the kept cache, which is reused or given back before more is taken."""
        if self._static is None:
            return 0
        layers = [layer for layer in self._static[2].layers if layer.is_initialized]
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)

    def batch_for(self, fit: int, waiting: int) -> int:
        """How many prompts to take of those that wait: compiled, as many as a graph has rows, while more wait.

        Args:
            fit: How many the memory takes.
            waiting: How many there are.
        """
        if not self.compile or fit >= waiting:
            return fit
        return fit // 8 * 8 if fit >= 8 else 1 << fit.bit_length() - 1

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt], store: PrefixStore | None = None, **options: Any) -> Tensor:
        """Answers a batch.

        Args:
            prompts: B prompts.
            store: Prefixes that are computed, to be used and added to; None computes every prompt as a whole.
            **options: For transformers' `generate`; `max_new_tokens` must be among them.

        Returns:
            (B, new ids).
        """
        size = len(prompts)
        if self.compile:
            self.model.get_model().check_unpruned(NEEDS_DYNAMIC_CACHE)
            self.model.get_model().check_counted(refusals.NEEDS_DYNAMIC_CACHE)
        prompts = [*prompts, *[prompts[-1]] * (self._rows(size) - size)]
        can_share = store is not None and options.get("num_beams", 1) == 1 and all(p.after_prefix for p in prompts)
        if store is not None and can_share and any(prompt.prefix for prompt in prompts):
            output = self._after_prefixes(prompts, store, options)
        else:
            output = self._whole(prompts, options)
        return output[:size]

    def _whole(self, prompts: Sequence[Prompt], options: dict[str, Any]) -> Tensor:
        """Every prompt from its first token on."""
        ids, mask = pad_left([prompt.input_ids for prompt in prompts], self.pad_token_id)
        longest = max(prompt.length for prompt in prompts)
        return self._run(
            self._new_cache(len(prompts), longest, options),
            options,
            inputs=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            image_features=_in_order(prompt.image_features for prompt in prompts),
        )

    def _after_prefixes(self, prompts: Sequence[Prompt], store: PrefixStore, options: dict[str, Any]) -> Tensor:
        """Only what follows the prefixes; those that are not in the store are computed first, once each."""
        missing = {prompt.prefix: prompt for prompt in prompts if prompt.prefix and prompt.prefix not in store.kept}
        if missing:
            features = _in_order(prompt.features(in_prefix=True) for prompt in missing.values())
            found = compute_prefixes(self.model, [key[0] for key in missing], features)
            store.kept |= dict(zip(missing, found, strict=True))
        prefixes = [store.kept[prompt.prefix] if prompt.prefix else None for prompt in prompts]
        ids, mask = (part.to(self.model.device) for part in pad_left([p.after_prefix for p in prompts], 0))
        embeds, sequence = self.model.embed_prompts(
            ids,
            image_features=_in_order(prompt.features(in_prefix=False) for prompt in prompts),
            attention_mask=mask,
            padding_side="left",
        )  # (B, T, D)
        held = max(prefix.length for prefix in prefixes if prefix is not None)
        cache = self._new_cache(len(prompts), held + embeds.shape[1], options) or DynamicCache(
            config=self.model.config.get_text_config()
        )
        held_mask = fill_cache(cache, prefixes).to(self.model.device)
        pruning = self.model.get_model().pruning_inputs(sequence)
        # Rows of the cached tokens are never read: transformers takes the last T, but counts the whole prompt.
        embeds = torch.cat([embeds.new_zeros(1).expand(len(prompts), held, embeds.shape[2]), embeds], dim=1)
        mask = torch.cat([held_mask, sequence.attention_mask], dim=1)
        return self._run(cache, options, inputs_embeds=embeds, attention_mask=mask, **pruning)

    def _run(self, cache: Cache | None, options: dict[str, Any], **inputs: Any) -> Tensor:
        given = {} if cache is None else {"past_key_values": cache}
        output: Tensor = self.model.generate(**inputs, **given, **options, pad_token_id=self.pad_token_id)
        return output

    def _rows(self, size: int) -> int:
        """Compiled, a batch is filled up to the next power of two or multiple of 8: a graph has a fixed shape."""
        if not self.compile:
            return size
        return 1 << (size - 1).bit_length() if size <= 8 else -(-size // 8) * 8

    def _new_cache(self, batch: int, prompt_length: int, options: dict[str, Any]) -> StaticCache | None:
        """Compiled, an empty static cache for prompts and answers: that of the last batch, if it is not far longer."""
        if not self.compile or options.get("num_beams", 1) > 1:
            return None
        length = -(-(prompt_length + options["max_new_tokens"]) // _LENGTH_STEP) * _LENGTH_STEP
        if self._static is not None:
            rows, held, cache = self._static
            if rows == batch and length <= held <= max(_LONGER * length, length + _LENGTH_STEP):
                cache.reset()
                return cache
        self._static = None  # its memory is to be had again before more is asked for
        cache = StaticCache(config=self.model.config.get_text_config(), max_cache_len=length)
        self._static = (batch, length, cache)
        return cache


def _in_order(features: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """Those of all prompts, one prompt after the other."""
    return list(chain.from_iterable(features))
