"""The stages of an answer, timed: vision, prefill, a decode step, each at every budget."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from graphs import graph_of
from harness import measure
from prompts import BUDGETS, family_of, make_prompt, prompt_tokens
from transformers import StaticCache

Work = Callable[[], Any]


@dataclass(frozen=True)
class Stages:
    """A model at a budget and a batch size, in milliseconds; None where memory was short or there is no graph.

    Attributes:
        model: Of `MODELS`.
        tokens: The paper's name of the budget.
        batch: Questions, each about an image of its own.
        vision: Tower, compressor and projector.
        prefill: The language model over the prompt.
        prefill_graph: The same, replayed from a captured graph.
        decode: One more token, the cache of fixed size.
        decode_graph: The same, replayed.
    """

    model: str
    tokens: str
    batch: int
    vision: float | None = None
    prefill: float | None = None
    prefill_graph: float | None = None
    decode: float | None = None
    decode_graph: float | None = None

    @property
    def best_prefill(self) -> float | None:
        """Eager or replayed, whichever is faster."""
        return _least(self.prefill, self.prefill_graph)

    @property
    def best_decode(self) -> float | None:
        """Eager or replayed, whichever is faster."""
        return _least(self.decode, self.decode_graph)

    def total(self, answer_tokens: int) -> float | None:
        """From pixels to the last token: the sum of the parts, prefill giving the first token."""
        if self.vision is None or self.best_prefill is None or self.best_decode is None:
            return None
        return self.vision + self.best_prefill + (answer_tokens - 1) * self.best_decode


@dataclass(frozen=True)
class Stopwatch:
    """How often work is run."""

    device: torch.device
    warmup: int
    repeats: int

    @property
    def runs(self) -> int:
        """Of a side at most: one to see if it fits and one to capture it included."""
        return max(1, self.warmup) + self.repeats + 2

    def in_turn(self, sides: dict[str, Work], ran: Collection[str] = ()) -> dict[str, float]:
        """Median milliseconds of each side that there is memory for; those of `ran` are known to fit."""
        fitting = {name: work for name, work in sides.items() if name in ran or _fits(work)}
        found = measure(fitting, self.device, warmup=self.warmup, repeats=self.repeats, memory=False)
        return {name: side.ms.median for name, side in found.items()}

    def replayed(self, work: Work) -> float | None:
        """Median milliseconds of work captured in a graph; None without CUDA, or with a warning if that fails."""
        if self.device.type != "cuda":
            return None
        try:
            replay = graph_of(work, self.device).replay
        except RuntimeError as error:  # no memory, or an operation that a graph cannot hold
            warnings.warn(f"not captured: {error}", stacklevel=2)
            torch.cuda.empty_cache()
            return None
        return self.in_turn({"replay": replay}).get("replay")


@torch.inference_mode()
def measure_stages(model: Any, name: str, batch: int, watch: Stopwatch) -> list[Stages]:
    """All stages at all budgets; eager vision and prefill take turns over the budgets.

    Args:
        model: On the stopwatch's device.
        name: Its name in `MODELS`.
        batch: Questions at a time.
        watch: How often.
    """
    prompt = make_prompt(model, name, batch)
    budgets = BUDGETS[family_of(name)]

    def encode(tokens: str) -> list[torch.Tensor]:
        model.set_compression(budgets[tokens])
        return prompt.encode(model)

    def encoding(tokens: str) -> Work:
        return lambda: encode(tokens)

    def prefilling(tokens: str) -> Work:
        features = encode(tokens)
        return lambda: prompt.prefill(model, features)

    vision = watch.in_turn({tokens: encoding(tokens) for tokens in budgets})
    prefills = {tokens: prefilling(tokens) for tokens in vision}
    steps = {tokens: _decode(model, work, batch, watch) for tokens, work in prefills.items()}
    prefill = watch.in_turn(prefills, ran=[tokens for tokens, (eager, _) in steps.items() if eager])
    found = []
    for tokens, budget in budgets.items():
        graph: float | None = None
        if tokens in prefill:
            graph = watch.replayed(language_model_over(model, batch, prompt_tokens(model.config, name, budget)))
        step = steps.get(tokens, (None, None))
        found.append(Stages(name, tokens, batch, vision.get(tokens), prefill.get(tokens), graph, *step))
    return found


def language_model_over(model: Any, batch: int, length: int) -> Work:
    """The language model alone over a prompt of any embeddings, the head at the last token."""
    width = model.config.text_config.hidden_size
    embeds = torch.randn(batch, length, width, device=model.device, dtype=model.dtype)

    def work() -> object:
        outputs = model.model.language_model(inputs_embeds=embeds, use_cache=True)
        return model.lm_head(outputs.last_hidden_state[:, -1]), outputs.past_key_values

    return work


def static_copy(model: Any, cache: Any, room: int) -> StaticCache:
    """A cache as one of fixed size, layer by layer, the source given up on the way.

    Args:
        model: That filled it.
        cache: Of its prefill.
        room: Tokens that may follow.
    """
    static = StaticCache(model.config.text_config, max_cache_len=int(cache.get_seq_length()) + room)
    for index, layer in enumerate(cache.layers):
        static.update(layer.keys, layer.values, index)
        layer.keys = layer.values = None
    return static


def _decode(model: Any, prefill: Work, batch: int, watch: Stopwatch) -> tuple[float | None, float | None]:
    """A step after the prompt: eager, and replayed."""
    ids = torch.full((batch, 1), 3, device=model.device)
    try:
        static = static_copy(model, prefill().past_key_values, 2 * watch.runs + 1)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None, None

    def step() -> object:
        return model(ids, past_key_values=static, use_cache=True).logits

    return watch.in_turn({"step": step}).get("step"), watch.replayed(step)


def _fits(work: Work) -> bool:
    """Runs work once; whether there was memory for it."""
    try:
        work()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


def _least(*milliseconds: float | None) -> float | None:
    return min((ms for ms in milliseconds if ms is not None), default=None)
