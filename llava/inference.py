"""Questions about images -> answers: the one way that evaluation, chat and scripts ask a model.

Batches are sorted by length and padded on the left; in fp32 a batch answers exactly what its questions get one by one.
An image that several questions of a call share is decoded, encoded and compressed once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates, default_conv_mode
from llava.image_source import ImageSource, UnreadableImageError, image_size, open_image, source_key
from llava.mm_utils import process_images, tokenizer_image_token
from llava.prompting import end_token_ids, pad_left, place_images, stop_string

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Batches are sorted within a window, so that memory holds the images of one window and not of the whole call.
_WINDOW_BATCHES = 16


@dataclass(frozen=True)
class Question:
    """A question and the images that it is about.

    Attributes:
        text: The user's words. Images stand in front of them unless the text says where: once `<image>` (or
            `<image-placeholder>`) for each image.
        images: Paths, URLs, encoded bytes or PIL images, in the order of the placeholders.
    """

    text: str
    images: tuple[ImageSource, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        index: Which question of the call this answers.
        text: The answer, special tokens and surrounding space removed; empty if there is an error.
        token_ids: The new ids, the end token excluded.
        prompt_tokens: Length of the prompt as the language model sees it, visual tokens included.
        visual_tokens: Visual tokens in the prompt.
        error: Why there is no answer (an unreadable image, named), or None.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    prompt_tokens: int = 0
    visual_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True)
class GenerationOptions:
    """How answers are made; greedy unless a temperature is given."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float | None = None
    num_beams: int = 1

    def to_kwargs(self) -> dict[str, Any]:
        """The keyword arguments for `model.generate`."""
        kwargs: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.num_beams,
            "do_sample": self.temperature > 0,
        }
        if self.temperature > 0:
            kwargs |= {"temperature": self.temperature, "top_p": self.top_p if self.top_p is not None else 1.0}
        return kwargs


@dataclass
class Usage:
    """What a call has cost so far. Times are wall-clock seconds, the device synchronised."""

    questions: int = 0
    image_uses: int = 0
    images_encoded: int = 0
    visual_tokens: int = 0
    new_tokens: int = 0
    encode_seconds: float = 0.0
    generate_seconds: float = 0.0

    @property
    def encodes_saved(self) -> int:
        """Passes through the vision tower that sharing images has saved."""
        return self.image_uses - self.images_encoded


@dataclass
class _Prepared:
    """A question that is ready but for its images' features."""

    index: int
    input_ids: list[int]
    keys: list[str]
    sources: list[ImageSource]
    visual_tokens: int

    @property
    def length(self) -> int:
        return len(self.input_ids) - len(self.keys) + self.visual_tokens


@dataclass
class _FeatureStore:
    """Features of images that questions still to be answered need, each with the number of its remaining uses."""

    uses: Counter[str]
    features: dict[str, Tensor] = field(default_factory=dict)

    def release(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.uses[key] -= 1
            if self.uses[key] <= 0:
                self.features.pop(key, None)


class Inference:
    """Asks one loaded model. Cheap to make; holds no state between calls but `usage` of the latest one."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: Any,
        image_processor: Any,
        *,
        conv_mode: str | None = None,
    ) -> None:
        """Takes the parts that `load_pretrained_model` returns.

        Args:
            tokenizer: The model's tokenizer.
            model: A LLaVA model.
            image_processor: The model's image processor.
            conv_mode: Name of a conversation template; by default the one that the model's config asks for.

        Raises:
            ValueError: There is no template of that name.
        """
        self.tokenizer = tokenizer
        self.model = model.eval()
        self.image_processor = image_processor
        self.conv_mode = conv_mode or default_conv_mode(model.config)
        if self.conv_mode not in conv_templates:
            raise ValueError(f"no conversation template {self.conv_mode!r}; there are: {', '.join(conv_templates)}")
        self.usage = Usage()

    @classmethod
    def load(
        cls,
        model_path: str | Path,
        model_base: str | Path | None = None,
        *,
        conv_mode: str | None = None,
        **options: Any,
    ) -> Inference:
        """Loads a checkpoint and makes it ready to be asked.

        Args:
            model_path: The checkpoint, or a folder with a tuned projector only.
            model_base: The checkpoint that the projector belongs to.
            conv_mode: Name of a conversation template; by default the one that the model's config asks for.
            **options: Passed to `load_pretrained_model` (`compression`, `device`, `load_4bit`, ...) unless None;
                `torch_dtype` may be a dtype's name.
        """
        from llava.model.builder import load_pretrained_model

        given = {name: value for name, value in options.items() if value is not None}
        if isinstance(given.get("torch_dtype"), str) and given["torch_dtype"] != "auto":
            given["torch_dtype"] = getattr(torch, given["torch_dtype"])
        base = None if model_base is None else str(model_base)
        tokenizer, model, image_processor, _ = load_pretrained_model(str(model_path), base, **given)
        return cls(tokenizer, model, image_processor, conv_mode=conv_mode)

    def prompt(self, question: Question) -> str:
        """The whole prompt of a single-turn question, `<image>` in place of each image."""
        conv = conv_templates[self.conv_mode].copy()
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
        batch_size: int = 8,
        options: GenerationOptions | None = None,
        skip_errors: bool = False,
    ) -> Iterator[Answer]:
        """Answers questions, batch after batch, in the order that is cheapest (`Answer.index` tells which is which).

        Args:
            questions: Any number of questions; those that share images should not be spread far apart.
            batch_size: Questions a batch.
            options: Generation options; greedy by default.
            skip_errors: Whether a question whose image cannot be read gets an answer with `error` set; by default
                the error is raised.

        Yields:
            One answer a question.

        Raises:
            ValueError: `batch_size` is not positive, or a text's placeholders do not match its images.
            UnreadableImageError: An image cannot be read and `skip_errors` is false.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        options = options or GenerationOptions()
        self.usage = Usage()
        store = _FeatureStore(Counter(source_key(image) for question in questions for image in question.images))
        order = _shared_images_together(questions)
        window = batch_size * _WINDOW_BATCHES
        for start in range(0, len(order), window):
            prepared: list[_Prepared] = []
            for index in order[start : start + window]:
                ready = self._prepare(index, questions[index], skip_errors)
                if isinstance(ready, Answer):
                    store.release(source_key(image) for image in questions[index].images)
                    yield ready
                else:
                    prepared.append(ready)
            prepared.sort(key=lambda item: (item.length, item.index))
            for first in range(0, len(prepared), batch_size):
                yield from self._answer_batch(prepared[first : first + batch_size], store, options, skip_errors)

    def ask_one(self, text: str, *images: ImageSource, options: GenerationOptions | None = None) -> Answer:
        """Answers one question."""
        return next(self.ask([Question(text, images)], batch_size=1, options=options))

    def _prepare(self, index: int, question: Question, skip_errors: bool) -> _Prepared | Answer:
        try:
            sizes = [image_size(image) for image in question.images]
        except UnreadableImageError as error:
            if not skip_errors:
                raise
            return Answer(index, "", error=str(error))
        ids = self.tokenize(self.prompt(question))
        visual = sum(self.model.num_visual_tokens(sizes)) if sizes else 0
        return _Prepared(index, ids, [source_key(image) for image in question.images], list(question.images), visual)

    def _answer_batch(
        self, batch: list[_Prepared], store: _FeatureStore, options: GenerationOptions, skip_errors: bool
    ) -> Iterator[Answer]:
        failures = self._encode_missing(batch, store, skip_errors)
        readable = [item for item in batch if not any(key in failures for key in item.keys)]
        if readable:
            features = [store.features[key] for item in readable for key in item.keys]
            generated = self._generate([item.input_ids for item in readable], features, options)
        for item in batch:
            store.release(item.keys)
            reasons = [failures[key] for key in item.keys if key in failures]
            if reasons:
                yield Answer(item.index, "", error=reasons[0])
        for position, item in enumerate(readable):
            ids = generated[position]
            self.usage.questions += 1
            self.usage.image_uses += len(item.keys)
            self.usage.visual_tokens += item.visual_tokens
            self.usage.new_tokens += len(ids)
            yield Answer(item.index, self.decode(ids), tuple(ids), item.length, item.visual_tokens)

    def _encode_missing(self, batch: list[_Prepared], store: _FeatureStore, skip_errors: bool) -> dict[str, str]:
        """Fills the store with what the batch needs; returns the images that cannot be read, with the reason."""
        missing: dict[str, ImageSource] = {}
        for item in batch:
            missing |= {
                key: source for key, source in zip(item.keys, item.sources, strict=True) if key not in store.features
            }
        images, keys, failures = [], [], {}
        for key, source in missing.items():
            try:
                images.append(open_image(source))
                keys.append(key)
            except UnreadableImageError as error:
                if not skip_errors:
                    raise
                failures[key] = str(error)
        if images:
            start = time.perf_counter()
            store.features |= dict(zip(keys, self.encode(images), strict=True))
            self._synchronise()
            self.usage.encode_seconds += time.perf_counter() - start
            self.usage.images_encoded += len(images)
        return failures

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
        pixels = process_images(list(images), self.image_processor, self.model.config)
        device, dtype = self.model.device, self.model.dtype
        if isinstance(pixels, list):
            return [tiles.to(device, dtype) for tiles in pixels]
        return pixels.to(device, dtype)

    @torch.inference_mode()
    def _generate(
        self, prompts: list[list[int]], features: list[Tensor], options: GenerationOptions
    ) -> list[list[int]]:
        """New ids of every prompt, the end token and what follows it removed."""
        start = time.perf_counter()
        input_ids, attention_mask = pad_left(prompts, self.pad_token_id)
        kwargs = options.to_kwargs() | self.stop_kwargs()
        output = self.model.generate(
            input_ids.to(self.model.device),
            attention_mask=attention_mask.to(self.model.device),
            image_features=features,
            pad_token_id=self.pad_token_id,
            use_cache=True,
            **kwargs,
        )
        ends = end_token_ids(self.model)
        rows = [_until_end(row, ends) for row in output.tolist()]
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

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of new ids, the separator and surrounding space removed."""
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=True).strip()
        stop = stop_string(self.conv_mode, self.tokenizer)
        return text.removesuffix(stop).strip() if stop else text

    def _synchronise(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)


def _until_end(row: list[int], ends: set[int]) -> list[int]:
    return next((row[:place] for place, token in enumerate(row) if token in ends), row)


def _shared_images_together(questions: Sequence[Question]) -> list[int]:
    """Order of the questions in which those with the same first image stand together, else unchanged."""
    first_seen: dict[str, int] = {}
    for index, question in enumerate(questions):
        first_seen.setdefault(source_key(question.images[0]) if question.images else "", index)
    return sorted(
        range(len(questions)),
        key=lambda i: first_seen[source_key(questions[i].images[0]) if questions[i].images else ""],
    )
