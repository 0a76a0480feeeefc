"""How long a question waits for its first token: the vision side, and the language model's prefill."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava.inference import Inference, Question
from llava.model.configuration import CompressionLike
from llava.prompts.around import without_images


@dataclass(frozen=True)
class PromptBatch:
    """A batch of questions as a model takes it, and the two stages up to the first token.

    Attributes:
        input_ids: (B, T), one placeholder an image, on the model's device.
        images: Pixels of each image, as `encode_images` takes them.
        image_sizes: (w, h) of each image before padding.
        questions: What is asked about each image; needed for methods that choose by it.
    """

    input_ids: Tensor
    images: Any
    image_sizes: Sequence[tuple[int, int]]
    questions: Sequence[str] | None = None

    def encode(self, model: Any) -> list[Tensor]:
        """The vision side: tower, compressor and projector."""
        features: list[Tensor] = model.encode_each(self.images, self.image_sizes, self.questions)
        return features

    def prefill(self, model: Any, features: Sequence[Tensor]) -> Any:
        """One pass of the language model over the whole prompt: the first token's logits, and the cache."""
        return model(self.input_ids, image_features=features, use_cache=True, logits_to_keep=1)


@dataclass(frozen=True)
class Latency:
    """Medians of one question at batch 1.

    Attributes:
        vision_ms: Vision tower, compressor and projector, milliseconds; preprocessing excluded.
        prefill_ms: One pass of the language model over the whole prompt, milliseconds.
        visual_tokens: Visual tokens that a layer of the language model reads on average.
        prompt_tokens: Prompt's length, visual tokens included.
        repeats: How many runs each median stands on.
    """

    vision_ms: float
    prefill_ms: float
    visual_tokens: float
    prompt_tokens: int
    repeats: int


def measure_latency(inference: Inference, question: Question, *, warmup: int = 3, repeats: int = 11) -> Latency:
    """Measures a question about one or more images at batch 1, with the model's own compression.

    Args:
        inference: The model.
        question: A question with at least one image.
        warmup: Runs that are not counted.
        repeats: Runs that are; the median is reported.

    Raises:
        ValueError: The question has no image, `repeats` is not positive, or `warmup` is negative.
        UnreadableImageError: An image cannot be read.
    """
    own = inference.model.compression
    return compare_latency(inference, question, [own], warmup=warmup, repeats=repeats)[0]


@torch.inference_mode()
def compare_latency(
    inference: Inference,
    question: Question,
    compressions: Sequence[CompressionLike],
    *,
    warmup: int = 3,
    repeats: int = 11,
) -> list[Latency]:
    """Measures a question under several budgets, the budgets taking turns, so that what else runs disturbs all alike.

    Args:
        inference: The model; its own compression is put back at the end.
        question: A question with at least one image.
        compressions: The budgets.
        warmup: Rounds that are not counted.
        repeats: Rounds that are; medians are reported.

    Returns:
        A latency for each budget.

    Raises:
        ValueError: The question has no image, `repeats` is not positive, or `warmup` is negative.
        UnreadableImageError: An image cannot be read.
    """
    if not question.images:
        raise ValueError("latency is measured on a question with an image, and this one has none")
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats must be at least 1 and warmup at least 0, got {repeats} and {warmup}")
    model = inference.model
    images = inference.open(question.images)
    sizes = [image.size for image in images]
    pixels = inference.preprocess(images)
    ids = inference.tokenize(inference.prompt(question))
    asked = [without_images(question.text)] * len(images)
    prompt = PromptBatch(torch.tensor([ids], device=model.device), pixels, sizes, asked)
    vision_ms: list[list[float]] = [[] for _ in compressions]
    prefill_ms: list[list[float]] = [[] for _ in compressions]
    visual_tokens: list[float] = [0] * len(compressions)
    prompt_tokens = [0] * len(compressions)
    before = model.compression
    try:
        for turn in range(warmup + repeats):
            for number, compression in enumerate(compressions):
                model.set_compression(compression)
                start = _now(model)
                features = prompt.encode(model)
                encoded = _now(model)
                prompt.prefill(model, features)
                if turn >= warmup:
                    vision_ms[number].append(1000 * (encoded - start))
                    prefill_ms[number].append(1000 * (_now(model) - encoded))
                visual_tokens[number] = model.get_model().mean_visual_tokens([len(rows) for rows in features])
                prompt_tokens[number] = len(ids) - len(images) + sum(len(rows) for rows in features)
    finally:
        model.set_compression(before)
    found = zip(vision_ms, prefill_ms, visual_tokens, prompt_tokens, strict=True)
    return [
        Latency(statistics.median(vision), statistics.median(prefill), visual, prompt, repeats)
        for vision, prefill, visual, prompt in found
    ]


def _now(model: Any) -> float:
    """Seconds, once the device has done what was asked of it."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
