"""How long a question waits for its first token: the vision side, the choice of tokens alone, and the prefill."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llava.constants import IMAGE_TOKEN_INDEX
from llava.inference import Inference, Question
from llava.inference.visuals import are_several, video_places
from llava.model.clips import clips_among
from llava.model.configuration import CompressionLike
from llava.model.multimodal_compressor.adaptive import compress_adaptively
from llava.prompts.around import without_images


@dataclass(frozen=True)
class PromptBatch:
    """A batch of questions as a model takes it, and the two stages up to the first token.

    Attributes:
        input_ids: (B, T), one placeholder an image, for a video as many as it takes, on the model's device.
        images: Pixels of each image, as `encode_images` takes them; `ClipPixels` of a video.
        image_sizes: (w, h) of each before padding.
        questions: What is asked about each; needed for methods that choose by it.
    """

    input_ids: Tensor
    images: Any
    image_sizes: Sequence[tuple[int, int]]
    questions: Sequence[str] | None = None

    def encode(self, model: Any) -> list[Tensor]:
        """The vision side: tower, compressor and projector."""
        features: list[Tensor] = model.encode_each(self.images, self.image_sizes, self.questions)
        return features

    def selector(self, model: Any) -> Callable[[], Any] | None:
        """The compressor alone: features are ready, tokens are kept; None where nothing stands before the prefill."""
        if model.model.bound_compressor is None:
            return None
        clips = clips_among(self.images, model.config)
        if not clips:
            return self._of_images(model, range(len(self.images)))
        asked = None if self.questions is None else [self.questions[place] for place in clips]
        of_clips = model.clip_selection(list(clips.values()), asked)
        pictures = [place for place in range(len(self.images)) if place not in clips]
        of_images = self._of_images(model, pictures) if pictures else None
        return of_clips if of_images is None else lambda: (of_clips(), of_images())

    def _of_images(self, model: Any, places: Sequence[int]) -> Callable[[], Any]:
        """The compressor of the images at some places."""
        is_all = len(places) == len(self.images)
        images = self.images if is_all else [self.images[place] for place in places]
        sizes = [self.image_sizes[place] for place in places]
        questions = None if self.questions is None else [self.questions[place] for place in places]
        bound, features = model.selection(images, sizes, questions)
        if bound.budget.adaptive is not None:
            return lambda: compress_adaptively(bound, features)
        return lambda: bound(features)

    def prefill(self, model: Any, features: Sequence[Tensor]) -> Any:
        """One pass of the language model over the whole prompt: the first token's logits, and the cache."""
        return model(self.input_ids, image_features=features, use_cache=True, logits_to_keep=1)


@dataclass(frozen=True)
class Latency:
    """Medians of one question at batch 1.

    Attributes:
        vision_ms: Vision tower, compressor and projector, milliseconds; decoding and preprocessing excluded.
        prefill_ms: One pass of the language model over the whole prompt, milliseconds.
        visual_tokens: Visual tokens that a layer of the language model reads on average.
        prompt_tokens: Prompt's length, visual tokens included.
        repeats: How many runs each median stands on.
        selector_ms: The compressor's part of `vision_ms`, milliseconds: from the features that it reads to the tokens
            that it keeps. None where all tokens reach the language model.
        kv_bytes: Of the cache behind the prefill, as it was allocated for keys and values.
        rows_read: Rows of images that a layer has in the cache behind the prefill, the mean over all layers.
    """

    vision_ms: float
    prefill_ms: float
    visual_tokens: float
    prompt_tokens: int
    repeats: int
    selector_ms: float | None = None
    kv_bytes: int = 0
    rows_read: float = 0.0


@dataclass
class _Timed:
    """What the turns of one budget have taken, in milliseconds, and what its prompt leaves behind."""

    selector: Callable[[], Any] | None
    vision_ms: list[float] = field(default_factory=list)
    selector_ms: list[float] = field(default_factory=list)
    prefill_ms: list[float] = field(default_factory=list)
    visual_tokens: float = 0
    visual_rows: int = 0
    layers: list[tuple[int, int]] = field(default_factory=list)

    def turn(self, model: Any, prompt: PromptBatch, *, counts: bool) -> None:
        """Vision side, compressor alone, prefill; the model has the budget set."""
        start = _now(model)
        features = prompt.encode(model)
        encoded = _now(model)
        if self.selector is not None:
            self.selector()
        chosen = _now(model)
        cache = prompt.prefill(model, features).past_key_values
        filled = _now(model)
        if counts:
            self.vision_ms.append(1000 * (encoded - start))
            self.selector_ms.append(1000 * (chosen - encoded))
            self.prefill_ms.append(1000 * (filled - chosen))
        lengths = [len(rows) for rows in features]
        self.visual_tokens, self.visual_rows = model.get_model().mean_visual_tokens(lengths), sum(lengths)
        self.layers = [(layer.keys.shape[-2], layer.keys.nbytes + layer.values.nbytes) for layer in cache.layers]

    def latency(self, text_tokens: int, repeats: int) -> Latency:
        """The medians."""
        return Latency(
            statistics.median(self.vision_ms),
            statistics.median(self.prefill_ms),
            self.visual_tokens,
            text_tokens + self.visual_rows,
            repeats,
            None if self.selector is None else statistics.median(self.selector_ms),
            sum(size for _, size in self.layers),
            statistics.mean(rows for rows, _ in self.layers) - text_tokens,
        )


def measure_latency(inference: Inference, question: Question, *, warmup: int = 3, repeats: int = 11) -> Latency:
    """Measures a question about one or more images or videos at batch 1, with the model's own compression.

    Args:
        inference: The model.
        question: A question with at least one image or video.
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
        question: A question with at least one image or video.
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
        raise ValueError("latency is measured on a question with an image or a video, and this one has none")
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats must be at least 1 and warmup at least 0, got {repeats} and {warmup}")
    model = inference.model
    images = inference.open(question.images)
    pixels, sizes, _ = inference.pixels_of(images, beside_others=are_several(images))
    ids = inference.tokenize(inference.prompt(question))
    asked = [without_images(question.text, videos=bool(video_places(images, model.config)))] * len(images)
    prompt = PromptBatch(torch.tensor([ids], device=model.device), pixels, sizes, asked)
    before = model.compression
    try:
        timed = []
        for compression in compressions:
            model.set_compression(compression)
            timed.append(_Timed(prompt.selector(model)))
        for turn in range(warmup + repeats):
            for own, compression in zip(timed, compressions, strict=True):
                model.set_compression(compression)
                own.turn(model, prompt, counts=turn >= warmup)
    finally:
        model.set_compression(before)
    text_tokens = len(ids) - ids.count(IMAGE_TOKEN_INDEX)
    return [own.latency(text_tokens, repeats) for own in timed]


def _now(model: Any) -> float:
    """Seconds, once the device has done what was asked of it."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
