"""Questions about images -> answers: the one way that evaluation, chat and scripts ask a model.

Batches are sorted by length and padded on the left; in fp32 a batch answers exactly what its questions get one by one.
An image that several questions of a call share is decoded, encoded and compressed once. The language model runs once
over what prompts have in common up to the image, or up to the end of the system prompt, and then over what differs.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conversation_template, default_conv_mode
from llava.images.processing import process_images
from llava.images.source import ImageSource, UnreadableImageError, source_key
from llava.images.store import ImageStore
from llava.images.workers import ImageFeed, ImagePixels, join_pixels, number_of_workers
from llava.inference.batch_size import BatchSize, release_memory
from llava.inference.generation import Generator, Prompt
from llava.inference.order import Prepared, by_length, same_images_together, with_prefixes
from llava.inference.prefix import PrefixStore, supports_prefixes
from llava.inference.question import Answer, GenerationOptions, Question, Usage
from llava.prompts.around import count_tokens, end_token_ids, longest_prompt, place_images, stop_string
from llava.prompts.tokens import tokenizer_image_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Answer", "GenerationOptions", "Inference", "Question", "Usage"]

# Batches are sorted within a window, so that memory holds the images of one window and not of the whole call.
_WINDOW_BATCHES = 16
_LARGEST_WINDOW = 256  # questions; a larger batch is a window by itself


class Inference:
    """Asks one loaded model. Cheap to make; between calls it holds `usage` of the latest one, and what is compiled."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: Any,
        image_processor: Any,
        *,
        conv_mode: str | None = None,
        reuse_prefixes: bool = True,
        compile: bool = False,
        image_workers: int | None = None,
    ) -> None:
        """Takes the parts that `load_pretrained_model` returns.

        Args:
            tokenizer: The model's tokenizer.
            model: A LLaVA model.
            image_processor: The model's image processor.
            conv_mode: Name of a conversation template; by default the one that the model's config asks for.
            reuse_prefixes: Whether prompts share what the language model computes of what they begin with. Greedy
                answers are the same; without, every prompt is computed as a whole.
            compile: Decode with a static cache and a compiled step; see `Generator`.
            image_workers: Processes that prepare pixels ahead; by default none on a CPU, else by the cores.

        Raises:
            ValueError: There is no template of that name, or `image_workers` is negative.
        """
        self.tokenizer = tokenizer
        self.model = model.eval()
        self.image_processor = image_processor
        self.conv_mode = conv_mode or default_conv_mode(model.config)
        conversation_template(self.conv_mode)  # refuses an unknown name now
        self.usage = Usage()
        self._reuse_prefixes = reuse_prefixes and supports_prefixes(model)
        self._generator = Generator(model, self.pad_token_id, compile=compile)
        self._image_workers = number_of_workers(image_workers, model.device)

    @classmethod
    def load(
        cls,
        model_path: str | Path,
        model_base: str | Path | None = None,
        *,
        conv_mode: str | None = None,
        compile: bool = False,
        image_workers: int | None = None,
        **options: Any,
    ) -> Inference:
        """Loads a checkpoint and makes it ready to be asked.

        Args:
            model_path: The checkpoint, or a folder with a tuned projector only.
            model_base: The checkpoint that the projector belongs to.
            conv_mode: Name of a conversation template; by default the one that the model's config asks for.
            compile: Of the vision half, see `load_pretrained_model`; of decoding, see `__init__`.
            image_workers: See `__init__`.
            **options: Passed to `load_pretrained_model` (`compression`, `device`, `torch_dtype`, `load_4bit`, ...).

        Raises:
            ValueError: The checkpoint, the budget or the device is not what it should be.
        """
        from llava.model.builder import load_pretrained_model

        _check_device(options.get("device"))
        if compile and options.get("attn_implementation") is None:
            options["attn_implementation"] = "sdpa"  # flash attention breaks the graph of a step
        base = None if model_base is None else str(model_base)
        tokenizer, model, image_processor, _ = load_pretrained_model(str(model_path), base, compile=compile, **options)
        return cls(tokenizer, model, image_processor, conv_mode=conv_mode, compile=compile, image_workers=image_workers)

    def prompt(self, question: Question) -> str:
        """The whole prompt of a single-turn question, `<image>` in place of each image."""
        conv = conversation_template(self.conv_mode).copy()
        conv.append_message(conv.roles[0], place_images(question.text, len(question.images), self.model.config))
        conv.append_message(conv.roles[1], None)
        return conv.get_prompt()

    def tokenize(self, prompt: str) -> list[int]:
        """Ids of a whole prompt, -200 for each `<image>`."""
        return cast("list[int]", tokenizer_image_token(prompt, self.tokenizer, IMAGE_TOKEN_INDEX))

    def ask(
        self,
        questions: Sequence[Question],
        *,
        batch_size: int | None = 8,
        options: GenerationOptions | None = None,
        skip_errors: bool = False,
    ) -> Iterator[Answer]:
        """Answers questions, batch after batch, in the order that is cheapest (`Answer.index` tells which is which).

        Args:
            questions: Any number of questions; those that share images should not be spread far apart.
            batch_size: Questions a batch. None begins with what the memory is likely to take and halves it whenever
                that was too much; no question is lost.
            options: Generation options; greedy by default.
            skip_errors: Whether a question whose image cannot be read gets an answer with `error` set; by default
                the error is raised.

        Yields:
            One answer a question.

        Raises:
            ValueError: `batch_size` is not positive, or a text's placeholders do not match its images.
            torch.OutOfMemoryError: A batch is too large, with `batch_size` None even a single question.
            UnreadableImageError: An image cannot be read and `skip_errors` is false.
        """
        options = options or GenerationOptions()
        size = BatchSize(self.model, batch_size)
        self.usage = Usage()
        store = ImageStore(Counter(source_key(image) for question in questions for image in question.images))
        order = same_images_together(questions)
        window = max(size.largest, min(size.largest * _WINDOW_BATCHES, _LARGEST_WINDOW))
        for start in range(0, len(order), window):
            prepared: list[Prepared] = []
            for index in order[start : start + window]:
                ready = self._prepare(index, questions[index], store, skip_errors)
                if isinstance(ready, Answer):
                    store.release(source_key(image) for image in questions[index].images)
                    yield ready
                else:
                    prepared.append(ready)
            prepared = self._arranged(prepared, size)
            prefixes = PrefixStore(Counter(item.prefix for item in prepared if item.prefix))
            with self._feed(prepared, store, size.largest) as store.feed:
                while prepared:
                    longest = list(accumulate((item.length for item in prepared), max))
                    fit = size.for_next(longest, options.max_new_tokens, self._generator.held_bytes)
                    batch = prepared[: self._generator.batch_for(fit, len(prepared))]
                    answers: list[Answer] = []
                    try:
                        answers = list(self._answer_batch(batch, store, prefixes, options, skip_errors))
                    except (torch.OutOfMemoryError, MemoryError) as error:
                        size.halve(len(batch), error)
                        prefixes.kept.clear()
                    if answers:
                        prepared = prepared[len(batch) :]
                        yield from answers
                    else:  # the error has let go of its tensors by now
                        release_memory()

    def ask_one(self, text: str, *images: ImageSource, options: GenerationOptions | None = None) -> Answer:
        """Answers one question."""
        return next(self.ask([Question(text, images)], batch_size=1, options=options))

    def _prepare(self, index: int, question: Question, store: ImageStore, skip_errors: bool) -> Prepared | Answer:
        try:
            sizes = [store.size(image) for image in question.images]
        except UnreadableImageError as error:
            if not skip_errors:
                raise
            return Answer(index, "", error=str(error))
        ids = self.tokenize(self.prompt(question))
        keys = [source_key(image) for image in question.images]
        image_tokens = self.model.num_visual_tokens(sizes) if sizes else []
        return Prepared(index, ids, keys, list(question.images), image_tokens)

    def _arranged(self, prepared: list[Prepared], size: BatchSize) -> list[Prepared]:
        """In the order in which they are asked, and with what they share."""
        if self._reuse_prefixes:
            prepared = with_prefixes(prepared, text_too=size.largest > 1)
        prepared = by_length(prepared)
        if self._generator.compile:
            prepared.reverse()  # then the cache of the first batch serves the shorter ones too
        return prepared

    def _answer_batch(
        self,
        batch: list[Prepared],
        store: ImageStore,
        prefixes: PrefixStore,
        options: GenerationOptions,
        skip_errors: bool,
    ) -> Iterator[Answer]:
        failures = self._encode_missing(batch, store, skip_errors)
        readable = [item for item in batch if not any(key in failures for key in item.keys)]
        if readable:
            generated = self._generate(readable, store, prefixes, options)
        prefixes.release(item.prefix for item in batch if item.prefix)
        for item in batch:
            store.release(item.keys)
            reasons = [failures[key] for key in item.keys if key in failures]
            if reasons:
                yield Answer(item.index, "", error=reasons[0])
        for position, item in enumerate(readable):
            ids = generated[position]
            self.usage.questions += 1
            self.usage.image_uses += len(item.keys)
            limit = longest_prompt(self.model.config)
            prompt, visual = count_tokens(item.input_ids, item.image_tokens, limit)
            self.usage.visual_tokens += visual
            self.usage.new_tokens += len(ids)
            yield Answer(item.index, self.decode(ids), tuple(ids), prompt, visual, truncated=prompt < item.length)

    def _encode_missing(self, batch: list[Prepared], store: ImageStore, skip_errors: bool) -> dict[str, str]:
        """Fills the store with what the batch needs; returns the images that cannot be read, with the reason."""
        missing = list(dict.fromkeys(key for item in batch for key in item.keys if key not in store.features))
        failures = {key: store.failures[key] for key in missing if key in store.failures}
        start = time.perf_counter()
        images = store.feed.take([key for key in missing if key not in failures])
        failures |= {image.key: image.error for image in images if image.pixels is None}
        store.failures |= failures
        if failures and not skip_errors:
            raise UnreadableImageError(next(iter(failures.values())))
        images = [image for image in images if image.pixels is not None]
        if images:
            store.features |= self._encode_pixels(images)
            self._synchronise()
            self.usage.encode_seconds += time.perf_counter() - start
            self.usage.images_encoded += len(images)
            store.feed.look_ahead(len(images))  # beside generation
        store.feed.forget(missing)
        return failures

    @torch.inference_mode()
    def _encode_pixels(self, images: Sequence[ImagePixels]) -> dict[str, Tensor]:
        """(K_i, D) of prepared images, by key."""
        pixels = self._on_device(join_pixels([image.pixels for image in images if image.pixels is not None]))
        features = self.model.encode_images(pixels, image_sizes=[image.size for image in images])
        return {image.key: feature for image, feature in zip(images, features, strict=True)}

    def _feed(self, prepared: Sequence[Prepared], store: ImageStore, ahead: int) -> ImageFeed:
        """Pixels of the images that questions need and that are not encoded, in the order of the questions."""
        sources = {
            key: source
            for item in prepared
            for key, source in zip(item.keys, item.sources, strict=True)
            if key not in store.features and key not in store.failures
        }
        sources = {key: store.downloads.pop(key, source) for key, source in sources.items()}
        device, config = self.model.device, self.model.config
        return ImageFeed(sources, self.image_processor, config, device, self._image_workers, ahead)

    @torch.inference_mode()
    def encode(self, images: Sequence[Any]) -> list[Tensor]:
        """Preprocesses, encodes, compresses and projects images.

        Args:
            images: PIL images.

        Returns:
            One (K_i, D) tensor an image, D the language model's width.
        """
        sizes = [image.size for image in images]
        features: list[Tensor] = self.model.encode_images(self.preprocess(images), image_sizes=sizes)
        return features

    def preprocess(self, images: Sequence[Any]) -> Tensor | list[Tensor]:
        """Pixels of PIL images, as the vision tower wants them: (B, 3, H, W), or tiles of each image."""
        return self._on_device(process_images(list(images), self.image_processor, self.model.config))

    def _on_device(self, pixels: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        device, dtype = self.model.device, self.model.dtype
        if isinstance(pixels, list):
            return [tiles.to(device, dtype) for tiles in pixels]
        return pixels.to(device, dtype)

    def _generate(
        self, items: Sequence[Prepared], store: ImageStore, prefixes: PrefixStore, options: GenerationOptions
    ) -> list[list[int]]:
        """New ids of every prompt, the end token and what follows it removed."""
        start = time.perf_counter()
        limit = longest_prompt(self.model.config)
        is_cut = limit is not None and any(item.length > limit for item in items)
        output = self._generator.generate(
            [Prompt(item.input_ids, [store.features[key] for key in item.keys], item.prefix) for item in items],
            None if is_cut else prefixes,
            **(options.to_kwargs() | self.stop_kwargs()),
        )
        ends = end_token_ids(self.model)
        rows = [self._until_separator(_until_end(row, ends)) for row in output.tolist()]
        self.usage.generate_seconds += time.perf_counter() - start
        return rows

    @property
    def pad_token_id(self) -> int:
        """Id that fills short rows; its value is never seen by the model."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else 0

    def stop_kwargs(self) -> dict[str, Any]:
        """What `generate` needs to stop at the template's separator, where that is not the end token itself."""
        stop = stop_string(self.conv_mode, self.tokenizer)
        return {} if stop is None else {"stop_strings": [stop], "tokenizer": self.tokenizer}

    def _until_separator(self, row: list[int]) -> list[int]:
        """Cuts off what a batch adds to a row that ended at the template's separator sooner than others."""
        stop = stop_string(self.conv_mode, self.tokenizer)
        if stop is None:
            return row
        first = bisect_left(range(len(row)), True, key=lambda last: stop in self.tokenizer.decode(row[: last + 1]))
        return row[: first + 1]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of new ids, the separator and surrounding space removed."""
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=True).strip()
        stop = stop_string(self.conv_mode, self.tokenizer)
        return text.removesuffix(stop).strip() if stop else text

    def _synchronise(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)


def _check_device(device: str | torch.device | None) -> None:
    """Refuses a device that is not here before a checkpoint is read for it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without it
        raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def _until_end(row: list[int], ends: set[int]) -> list[int]:
    return next((row[:place] for place, token in enumerate(row) if token in ends), row)
