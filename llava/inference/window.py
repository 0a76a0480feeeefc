"""A window of questions: prepared together, batched by length, and answered.

Batches are sorted within a window, so that memory holds the images of one window and not of the whole call.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from llava.encoded.index import Entry
from llava.images.source import FrameSource, ImageSource, UnreadableImageError
from llava.images.store import ImageStore, image_keys
from llava.images.workers import ImageFeed
from llava.inference.batch_size import BatchSize, release_memory
from llava.inference.first_logits import NOT_FINITE, FirstLogits, NotFiniteError
from llava.inference.generation import Prompt
from llava.inference.order import Prepared
from llava.inference.prefix import PrefixStore
from llava.inference.question import Answer, GenerationOptions, Question
from llava.inference.seen_images import features_for
from llava.inference.stored_images import StoredImages
from llava.inference.visuals import are_several, count_visual_tokens
from llava.inference.watch import BatchRow, Watch
from llava.prompts.around import check_fits, count_tokens, longest_prompt, without_images

_BATCHES = 16
_MOST_QUESTIONS = 256  # a larger batch is a window by itself
_MOST_DOWNLOADED = 2**30  # bytes; a window takes no further question while it holds so many


def window_size(largest_batch: int) -> int:
    """How many questions a window has."""
    return max(largest_batch, min(largest_batch * _BATCHES, _MOST_QUESTIONS))


@dataclass(frozen=True)
class Call:
    """What all windows of one call share.

    Attributes:
        inference: The `Inference` that is asked; it makes windows, so its class is not imported here.
        store: The images of the call.
        size: Of batches; it shrinks when memory runs out.
        options: Of generation.
        skip_errors: Whether a question that cannot be prepared becomes an answer with an error.
        allow_cut: Whether a prompt may be cut.
        on_begin: Told which questions are worked on, by index.
        stored: Images that need not be encoded; None without a store.
        watch: Told of batches, or None.
    """

    inference: Any
    store: ImageStore
    size: BatchSize
    options: GenerationOptions
    skip_errors: bool
    allow_cut: bool = True
    on_begin: Callable[[Sequence[int]], None] | None = None
    stored: StoredImages | None = None
    watch: Watch | None = None

    def sizes(self, keys: Sequence[str], images: Sequence[ImageSource]) -> list[tuple[int, int]]:
        """(w, h) of the images of a prompt, its videos left out; raises UnreadableImageError."""
        if self.stored is not None:
            self.stored.look_for(keys, images)
        pictures = [each for each in zip(keys, images, strict=True) if not isinstance(each[1], FrameSource)]
        return [
            self.store.size(key, image) if (entry := self.entry(key)) is None else entry.size for key, image in pictures
        ]

    def entry(self, key: str) -> Entry | None:
        """What a store has of an image."""
        return None if self.stored is None else self.stored.entry(key)

    def begin(self, indices: Sequence[int]) -> None:
        """Says that these questions are worked on."""
        if self.on_begin is not None:
            self.on_begin(indices)


class Window:
    """Questions that wait, and what is computed of them."""

    prefixes: PrefixStore

    def __init__(self, call: Call) -> None:
        """Begins empty."""
        self.call = call
        self.waiting: list[Prepared] = []

    def answers(self, questions: deque[tuple[int, Question]], width: int) -> Iterator[Answer]:
        """Takes the next questions and answers them; raises as `Inference.ask` does.

        Args:
            questions: Those that wait, each with its index in the call.
            width: How many to take at most; fewer if their images take much memory before they are encoded.

        Yields:
            One answer a question that is taken.
        """
        call = self.call
        for _ in range(min(width, len(questions))):
            yield from self._prepare(*questions.popleft())
            if call.store.held_bytes >= _MOST_DOWNLOADED:
                break
        self.waiting = call.inference.arranged(self.waiting, call.size)
        self.prefixes = PrefixStore(Counter(item.prefix for item in self.waiting if item.prefix))
        with self._feed() as call.store.feed:
            while self.waiting:
                answered = self._try(self.waiting[: self._next_size()])
                if answered:
                    yield from answered
                else:  # the error has let go of its tensors by now
                    release_memory()

    def _prepare(self, index: int, question: Question) -> Iterator[Answer]:
        """Lets a question wait; yields an answer if that fails, for whatever reason."""
        call = self.call
        call.begin([index])
        keys = image_keys(question.images, call.inference.model.config)
        try:
            self.waiting.append(self._prepared(index, question, keys))
        except Exception as error:  # one bad question must not end thousands
            if not call.skip_errors:
                raise
            call.store.release(keys)
            yield Answer(index, "", error=str(error) if isinstance(error, ValueError) else repr(error))

    def _prepared(self, index: int, question: Question, keys: list[str]) -> Prepared:
        inference = self.call.inference
        sizes = self.call.sizes(keys, question.images)
        ids = inference.tokenize(inference.prompt(question))
        image_tokens = count_visual_tokens(inference.model, question.images, sizes)
        reads = bool(question.images) and inference.model.model.reads_questions
        asked = without_images(question.text, videos=len(sizes) < len(keys)) if reads else ""
        if reads:
            inference.model.model.check_question(asked)
        item = Prepared(index, ids, keys, list(question.images), image_tokens, asked)
        if not self.call.allow_cut:
            advice = "ask less, about fewer images, or with a smaller budget"
            check_fits(item.length, inference.model.config, "the prompt", advice)
        return item

    def _next_size(self) -> int:
        call = self.call
        longest = list(accumulate((item.length for item in self.waiting), max))
        generator = call.inference.generator
        fit = call.size.for_next(longest, call.options.max_new_tokens, generator.held_bytes)
        return generator.batch_for(fit, len(self.waiting))

    def _try(self, batch: list[Prepared]) -> list[Answer]:
        """Answers a batch and takes it from `waiting`; nothing if memory ran out, and then batches are smaller."""
        self.call.begin([item.index for item in batch])
        try:
            answered = self._answer(batch)
        except (torch.OutOfMemoryError, MemoryError) as error:
            self.call.size.halve(len(batch), error)
            self.prefixes.kept.clear()
            return []
        except RuntimeError as error:
            if not self.call.store.feed.go_on_alone(error):
                raise
            self.prefixes.kept.clear()
            return []
        self.waiting = self.waiting[len(batch) :]
        return answered

    def _answer(self, batch: list[Prepared]) -> list[Answer]:
        inference, store = self.call.inference, self.call.store
        failures = self._encode_missing(batch)
        readable = [item for item in batch if not any(key in failures for key in item.keys)]
        generated = self._generate(readable) if readable else []
        seen = {key: store.features[key].frames for item in readable for key in item.keys}
        is_all_that_was_asked = not inference.usage.questions and all(ids is None for ids in generated)
        if None in generated and (is_all_that_was_asked or not self.call.skip_errors):
            raise NotFiniteError(inference.name, inference.model.dtype)
        self.prefixes.release(item.prefix for item in batch if item.prefix)
        answers = []
        for item in batch:
            store.release(item.keys)
            reasons = [failures[key] for key in item.keys if key in failures]
            if reasons:
                answers.append(Answer(item.index, "", error=reasons[0]))
        usage = inference.usage
        for item, ids in zip(readable, generated, strict=True):
            if ids is None:
                answers.append(Answer(item.index, "", error=NOT_FINITE))
                continue
            prompt, visual = self._seen_tokens(item)
            usage.questions += 1
            usage.image_uses += len(item.keys)
            usage.visual_tokens += visual
            usage.new_tokens += len(ids)
            text = inference.decode(ids)
            lost, frames = item.length - prompt, tuple(seen[key] for key in item.keys if seen.get(key))
            answers.append(Answer(item.index, text, tuple(ids), prompt, visual, lost, frames=frames))
        return answers

    def _seen_tokens(self, item: Prepared) -> tuple[int, float]:
        """How many tokens of a prompt the model sees, and the visual ones among them."""
        model = self.call.inference.model
        prompt, visual = count_tokens(item.input_ids, item.image_tokens, longest_prompt(model.config))
        return prompt, model.get_model().mean_visual_tokens(item.image_tokens) if item.length == prompt else visual

    def _encode_missing(self, batch: list[Prepared]) -> dict[str, str]:
        """Fills the store with what the batch needs; returns the images that cannot be read, with the reason."""
        inference, store = self.call.inference, self.call.store
        missing = list(dict.fromkeys(key for item in batch for key in item.keys if key not in store.features))
        failures = {key: store.failures[key] for key in missing if key in store.failures}
        start = time.perf_counter()
        stored = {key: entry for key in missing if (entry := self.call.entry(key)) is not None}
        if self.call.stored is not None and stored:
            store.features |= self.call.stored.see(stored)
            inference.usage.encode_seconds += time.perf_counter() - start
            inference.usage.images_from_store += len(stored)
            start = time.perf_counter()
        images = store.feed.take([key for key in missing if key not in failures and key not in stored])
        failures |= {image.key: image.error for image in images if image.pixels is None}
        store.failures |= failures
        if failures and not self.call.skip_errors:
            raise UnreadableImageError(next(iter(failures.values())))
        images = [image for image in images if image.pixels is not None]
        if images:
            encoded = inference.encode_pixels(images)
            store.features |= encoded
            if inference.feature_cache is not None:
                inference.feature_cache.add(str(inference.model.compression), encoded)
            inference.usage.encode_seconds += time.perf_counter() - start
            inference.usage.images_encoded += len(images)
            store.feed.look_ahead(len(images))  # beside generation
        store.feed.forget(missing)
        return failures

    def _generate(self, items: Sequence[Prepared]) -> list[list[int] | None]:
        """New ids of every prompt, the end token and what follows it removed; None where its logits are not finite."""
        inference, start = self.call.inference, time.perf_counter()
        seen = self.call.store.features
        chosen = iter(
            features_for(
                inference.model,
                [seen[key] for item in items for key in item.keys],
                [item.question for item in items for _ in item.keys],
            )
        )
        prompts = [Prompt(item.input_ids, [next(chosen) for _ in item.image_tokens], item.prefix) for item in items]
        for item, prompt in zip(items, prompts, strict=True):  # what was known of an adaptive budget is the most
            item.image_tokens = [len(features) for features in prompt.image_features]
        limit = longest_prompt(inference.model.config)
        is_cut = limit is not None and any(item.length > limit for item in items)
        with FirstLogits(inference.model) as first:
            options = self.call.options.to_kwargs() | inference.stop_kwargs()
            if self.call.watch is not None:
                rows = [BatchRow(item.index, *self._seen_tokens(item)) for item in items]
                options |= self.call.watch.begin(rows, first)
            output = inference.generator.generate(prompts, None if is_cut else self.prefixes, **options)
        fetched = first.beside(output, self.call.options.num_beams).tolist()
        answers = [inference.until_end(ids) if is_finite else None for *ids, is_finite in fetched]
        inference.usage.generate_seconds += time.perf_counter() - start
        return answers

    def _feed(self) -> ImageFeed:
        """Pixels of the images that the questions need and that are not encoded, in the order of the questions."""
        store, inference = self.call.store, self.call.inference
        sources = {
            key: source
            for item in self.waiting
            for key, source in zip(item.keys, item.sources, strict=True)
            if key not in store.features and key not in store.failures and self.call.entry(key) is None
        }
        sources = {key: store.downloads.pop(key, source) for key, source in sources.items()}
        device, config = inference.model.device, inference.model.config
        workers, ahead = inference.image_workers, self.call.size.largest
        beside = {key for item in self.waiting if are_several(item.sources) for key in item.keys}
        return ImageFeed(sources, inference.image_processor, config, device, workers, ahead, beside)
