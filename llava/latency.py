"""How long a question waits for its first token: the vision side, and the language model's prefill."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from llava.image_source import open_image
from llava.inference import Inference, Question


@dataclass(frozen=True)
class Latency:
    """Medians of one question at batch 1.

    Attributes:
        vision_ms: Vision tower, compressor and projector, milliseconds; preprocessing excluded.
        prefill_ms: One pass of the language model over the whole prompt, milliseconds.
        visual_tokens: Visual tokens in the prompt.
        prompt_tokens: Prompt's length, visual tokens included.
        repeats: How many runs each median stands on.
    """

    vision_ms: float
    prefill_ms: float
    visual_tokens: int
    prompt_tokens: int
    repeats: int


@torch.inference_mode()
def measure_latency(inference: Inference, question: Question, *, warmup: int = 3, repeats: int = 11) -> Latency:
    """Measures a question about one or more images, after a warm-up, at batch 1.

    Args:
        inference: The model, with the compression to be measured.
        question: A question with at least one image.
        warmup: Runs that are not counted.
        repeats: Runs that are; the median is reported.

    Raises:
        ValueError: The question has no image, or `repeats` is not positive.
        UnreadableImageError: An image cannot be read.
    """
    if not question.images or repeats < 1:
        raise ValueError("latency is measured on a question with an image, over at least one repeat")
    model = inference.model
    images = [open_image(source) for source in question.images]
    sizes = [image.size for image in images]
    pixels = inference.preprocess(images)
    features = model.encode_images(pixels, image_sizes=sizes)
    ids = inference.tokenize(inference.prompt(question))
    input_ids = torch.tensor([ids], device=model.device)

    def synchronise() -> None:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)

    def vision() -> None:
        model.encode_images(pixels, image_sizes=sizes)

    def prefill() -> None:
        model(input_ids, image_features=features, use_cache=True, logits_to_keep=1)

    visual_tokens = sum(len(rows) for rows in features)
    return Latency(
        vision_ms=median_ms(vision, warmup, repeats, synchronise),
        prefill_ms=median_ms(prefill, warmup, repeats, synchronise),
        visual_tokens=visual_tokens,
        prompt_tokens=len(ids) - len(images) + visual_tokens,
        repeats=repeats,
    )


def median_ms(work: Callable[[], None], warmup: int, repeats: int, synchronise: Callable[[], None]) -> float:
    """Median wall-clock time of `work` in milliseconds, the device synchronised before and after each run."""
    for _ in range(warmup):
        work()
    times = []
    for _ in range(repeats):
        synchronise()
        start = time.perf_counter()
        work()
        synchronise()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)
