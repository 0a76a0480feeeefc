"""Questions about images -> answers: the one way that evaluation, chat and scripts ask a model.

Batches are sorted by length and padded on the left; in fp32 a batch answers exactly what its questions get one by one.
An image that several questions of a call share is decoded, encoded and compressed once. The language model runs once
over what prompts have in common up to the image, or up to the end of the system prompt, and then over what differs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llava.encoded.made_with import ModelFacts
from llava.images.processing import process_beside_others, process_images
from llava.images.source import FrameSource, ImageSource, open_image
from llava.images.store import ImageStore, image_keys
from llava.images.workers import ImagePixels, number_of_workers
from llava.inference.batch_size import BatchSize
from llava.inference.feature_cache import FeatureCache
from llava.inference.generation import Generator
from llava.inference.order import Prepared, by_length, same_images_together, with_prefixes
from llava.inference.prefix import supports_prefixes
from llava.inference.prompting import PromptWriter
from llava.inference.question import Answer, GenerationOptions, Question, Usage
from llava.inference.seen_images import SeenImage, features_for, see_images
from llava.inference.stored_images import FittingStore, StoredImages, StoreLike, opened_stores
from llava.inference.visuals import are_several, joined_pixels, video_places
from llava.inference.watch import Watch
from llava.inference.window import Call, Window, window_size
from llava.model.builder import load_pretrained_model
from llava.prompts.around import end_token_ids, without_images
from llava.prompts.own_template import conv_mode_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Answer", "GenerationOptions", "Inference", "Question", "Usage"]


class Inference:
    """Asks one loaded model. Cheap to make; between calls it holds `usage` of the latest one, and what is compiled.

    With a `feature_cache` it also keeps images from call to call; those that are given as bytes.
    """

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
        exact: bool = False,
        image_store: StoreLike | Sequence[StoreLike] | None = None,
    ) -> None:
        """Takes the parts that `load_pretrained_model` returns.

        Args:
            tokenizer: The model's tokenizer.
            model: A LLaVA model.
            image_processor: The model's image processor.
            conv_mode: Name of a conversation template; see `conv_mode_for`.
            reuse_prefixes: Whether prompts share what the language model computes of what they begin with. Greedy
                answers are the same; without, every prompt is computed as a whole.
            compile: Decode with a static cache and a compiled step; see `Generator`.
            image_workers: Processes that prepare pixels ahead; by default none on a CPU, else by the cores.
            exact: Ask every question as if it were the only one: batches of one, and no image, prefix or compiled graph
                that another question has too. In fp16 and bf16 that can give another answer than a batch does.
            image_store: Images that `llava store build` has encoded, a folder or what `llava.store.open` gave; of
                several the one that fits the model's budget at the time is read. An image that is not there is encoded.

        Raises:
            ValueError: There is no template of that name, `image_workers` is negative, or `exact` goes with `compile`
                or `image_workers`.
            StoreError: A folder is no store, or damaged.
        """
        if exact and (compile or image_workers):
            raise ValueError("exact asks questions one by one, without compile and image workers; leave those out")
        self.exact = exact
        self.tokenizer = tokenizer
        self.model = model.eval()
        self.image_processor = image_processor
        self.name = str(getattr(model.config, "name_or_path", "") or type(model).__name__)  # in messages
        self.conv_mode = conv_mode_for(model.config, tokenizer, conv_mode)
        self.usage = Usage()
        self.feature_cache: FeatureCache | None = None
        self._reuse_prefixes = reuse_prefixes and not exact and supports_prefixes(model)
        self.generator = Generator(model, self.pad_token_id, compile=compile)
        self.image_workers = 0 if exact else number_of_workers(image_workers, model.device)
        facts = ModelFacts(model.model, image_processor, model.config)
        self._stores = FittingStore(opened_stores(image_store), facts)

    @classmethod
    def load(
        cls,
        model_path: str | Path,
        model_base: str | Path | None = None,
        *,
        conv_mode: str | None = None,
        compile: bool = False,
        image_workers: int | None = None,
        exact: bool = False,
        image_store: StoreLike | Sequence[StoreLike] | None = None,
        **options: Any,
    ) -> Inference:
        """Loads a checkpoint and makes it ready to be asked.

        Args:
            model_path: The checkpoint, or a folder with a tuned projector only.
            model_base: The checkpoint that the projector belongs to.
            conv_mode: Name of a conversation template; see `conv_mode_for`.
            compile: Of the vision half, see `load_pretrained_model`; of decoding, see `__init__`.
            image_workers: See `__init__`.
            exact: See `__init__`.
            image_store: See `__init__`.
            **options: Passed to `load_pretrained_model` (`compression`, `device`, `torch_dtype`, `load_4bit`, ...).

        Raises:
            ValueError: The checkpoint, the budget or the device is not what it should be.
        """
        _check_device(options.get("device"))
        if compile and options.get("attn_implementation") is None:
            options["attn_implementation"] = "sdpa"  # flash attention breaks the graph of a step
        stores = opened_stores(image_store)  # before the weights, which take minutes
        base = None if model_base is None else str(model_base)
        tokenizer, model, image_processor, _ = load_pretrained_model(str(model_path), base, compile=compile, **options)
        inference = cls(
            tokenizer,
            model,
            image_processor,
            conv_mode=conv_mode,
            compile=compile,
            image_workers=image_workers,
            exact=exact,
            image_store=stores,
        )
        inference.name = str(model_path)
        return inference

    @property
    def prompts(self) -> PromptWriter:
        """Writes prompts as the model was tuned with them."""
        return PromptWriter(self.tokenizer, self.model.config, self.conv_mode)

    def prompt(self, question: Question) -> str:
        """The whole prompt of a question; see `PromptWriter`."""
        return self.prompts.prompt(question)

    def tokenize(self, prompt: str) -> list[int]:
        """Ids of a whole prompt, -200 for each `<image>`; see `PromptWriter`."""
        return self.prompts.tokenize(prompt)

    def ask(
        self,
        questions: Sequence[Question],
        *,
        batch_size: int | None = 8,
        options: GenerationOptions | None = None,
        skip_errors: bool = False,
        allow_cut: bool = True,
        on_begin: Callable[[Sequence[int]], None] | None = None,
        watch: Watch | None = None,
    ) -> Iterator[Answer]:
        """Answers questions, batch after batch, in the order that is cheapest (`Answer.index` tells which is which).

        Args:
            questions: Any number of questions; those that share images should not be spread far apart.
            batch_size: Questions a batch. None begins with what the memory is likely to take and halves it whenever
                that was too much; no question is lost. Where `exact` is set it is 1.
            options: Generation options; greedy by default.
            skip_errors: Whether a question that cannot be prepared, for its image cannot be read above all, or whose
                logits are not finite, gets an answer with `error` set; by default the error is raised.
            allow_cut: Whether the model may cut a prompt that is too long for it, as LLaVA does; else it is an error.
            on_begin: Called with the questions, by index, that are worked on from now on until the next call.
            watch: Told of answers while they are made.

        Yields:
            One answer a question.

        Raises:
            ValueError: `batch_size` is not positive; or a text's placeholders do not match its images, it is not
                Unicode, or its prompt is too long and must not be cut.
            torch.OutOfMemoryError: A batch is too large, with `batch_size` None even a single question.
            UnreadableImageError: An image cannot be read and `skip_errors` is false.
            NotFiniteError: The logits of a question are not finite and `skip_errors` is false; or those of the whole
                first batch, as with damaged weights.
            StoreMismatchError: There are stores of images, and none fits the model under its budget.
        """
        options = options or GenerationOptions()
        self.usage = Usage()
        if self.model.model.reads_questions:
            self.model.learn_to_read()
        size = BatchSize(self.model, 1 if self.exact else batch_size)
        width = window_size(size.largest)
        order = same_images_together(questions)
        for together in [[index] for index in order] if self.exact else [order]:
            config = self.model.config
            uses = Counter(key for index in together for key in image_keys(questions[index].images, config))
            store = ImageStore(uses, config)
            if self.feature_cache is not None:
                store.know(self.feature_cache.find(str(self.model.compression), uses))
            call = Call(self, store, size, options, skip_errors, allow_cut, on_begin, self.stored_images(), watch)
            waiting = deque((index, questions[index]) for index in together)
            while waiting:
                yield from Window(call).answers(waiting, width)

    def ask_one(self, text: str, *images: ImageSource, options: GenerationOptions | None = None) -> Answer:
        """Answers one question, which must fit: the model would cut the end of it.

        Raises:
            UnreadableImageError: An image cannot be read.
            ValueError: As `ask` raises; above all, the prompt is too long for the model.
        """
        return next(self.ask([Question(text, images)], batch_size=1, options=options, allow_cut=False))

    def stored_images(self) -> StoredImages | None:
        """Where images are read that were encoded before; None without a store.

        Raises:
            StoreMismatchError: There are stores, and none fits the model under its budget.
        """
        store = self._stores.find()
        return None if store is None else StoredImages(store, self.model)

    def look_at(self, images: Sequence[ImageSource]) -> list[SeenImage]:
        """The images of one prompt, opened and encoded, or read from a store; as `see`.

        Raises:
            UnreadableImageError: An image cannot be read.
            ValueError: There is a video, and the model sees none.
            StoreMismatchError: As `stored_images`.
        """
        keys, stored = image_keys(images, self.model.config), self.stored_images()
        known: dict[str, SeenImage] = {}
        if stored is not None:
            stored.look_for(keys, images)
            known = stored.see({key: entry for key in keys if (entry := stored.entry(key)) is not None})
        sources = {key: image for key, image in zip(keys, images, strict=True) if key not in known}
        if sources:
            seen = self.see(self.open(list(sources.values())), beside_others=are_several(images))
            known |= dict(zip(sources, seen, strict=True))
        return [known[key] for key in keys]

    def open(self, images: Sequence[ImageSource]) -> list[Any]:
        """Opens images as this checkpoint reads them, photos turned or not: PIL images.

        Videos stay what they are, once they are known to be some.

        Raises:
            UnreadableImageError: One cannot be read.
            ValueError: There is a video, and the model sees none.
        """
        video_places(images, self.model.config)
        opened: list[Any] = []
        for image in images:
            if isinstance(image, FrameSource):
                image.check()
                opened.append(image)
            else:
                opened.append(open_image(image, self.model.config))
        return opened

    def arranged(self, prepared: list[Prepared], size: BatchSize) -> list[Prepared]:
        """Questions in the order in which they are asked, and with what they share."""
        if self._reuse_prefixes and not self.model.get_model().restores:  # which reads a prompt as a whole
            # What a method inside the language model keeps of an image depends on the question behind it.
            images_too = self.model.get_model().bound_pruner is None
            prepared = with_prefixes(prepared, text_too=size.largest > 1, images_too=images_too)
        prepared = by_length(prepared)
        if self.generator.compile:
            prepared.reverse()  # then the cache of the first batch serves the shorter ones too
        return prepared

    @torch.inference_mode()
    def encode_pixels(self, images: Sequence[ImagePixels]) -> dict[str, SeenImage]:
        """Prepared images, encoded as far as no question is needed, by key; the device is done with them."""
        pixels = self._on_device(joined_pixels(images))
        frames = [image.indices for image in images]
        seen = see_images(self.model, pixels, [image.size for image in images], frames)
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return {image.key: each for image, each in zip(images, seen, strict=True)}

    @torch.inference_mode()
    def see(self, images: Sequence[Any], *, beside_others: bool = False) -> list[SeenImage]:
        """Preprocesses PIL images and videos and encodes them as far as no question is needed.

        Args:
            images: As `open` gives them.
            beside_others: As for `preprocess`.

        Raises:
            UnreadableImageError: A video cannot be read.
        """
        return see_images(self.model, *self.pixels_of(images, beside_others=beside_others))

    def pixels_of(
        self, images: Sequence[Any], *, beside_others: bool = False
    ) -> tuple[Any, list[tuple[int, int]], list[tuple[int, ...]]]:
        """`see` before anything is encoded: pixels on the device, (w, h) of each, numbers of a video's frames."""
        if not any(isinstance(image, FrameSource) for image in images):
            pixels = self.preprocess(images, beside_others=beside_others)
            return pixels, [image.size for image in images], [()] * len(images)
        prepared = []
        for image in images:
            if isinstance(image, FrameSource):
                frames = image.prepare(self.image_processor, self.model.config)
                prepared.append(ImagePixels("", frames.size, frames.pixels, indices=frames.indices))
            else:
                tiles = self.preprocess([image], beside_others=beside_others)
                prepared.append(ImagePixels("", image.size, tiles if isinstance(tiles, Tensor) else tiles[0][None]))
        sizes, numbers = [each.size for each in prepared], [each.indices for each in prepared]
        return self._on_device(joined_pixels(prepared)), sizes, numbers

    @torch.inference_mode()
    def features_for(self, seen: Sequence[SeenImage], text: str) -> list[Tensor]:
        """One (K_i, D) tensor for each `<image>` of a prompt, D the language model's width.

        Args:
            seen: Of `see`.
            text: What is asked about them; it decides what is kept where the compression says so.
        """
        asked = without_images(text, videos=any(image.frames for image in seen))
        return features_for(self.model, seen, [asked] * len(seen))

    def encode(self, images: Sequence[Any], text: str = "") -> list[Tensor]:
        """Preprocesses, encodes, compresses and projects the images of one prompt: `see`, then `features_for`."""
        return self.features_for(self.see(images, beside_others=are_several(images)), text)

    def preprocess(self, images: Sequence[Any], *, beside_others: bool = False) -> Tensor | list[Tensor]:
        """Pixels of PIL images, as the vision tower wants them: (B, 3, H, W), or tiles of each image.

        Args:
            images: Any number.
            beside_others: Whether they stand in one prompt with others; some families then cut them into no tiles.
        """
        process = process_beside_others if beside_others else process_images
        return self._on_device(process(list(images), self.image_processor, self.model.config))

    def _on_device(self, pixels: Any) -> Any:
        device, dtype = self.model.device, self.model.dtype
        if isinstance(pixels, list):
            return [tiles.to(device, dtype) for tiles in pixels]
        return pixels.to(device, dtype)

    @property
    def pad_token_id(self) -> int:
        """Id that fills short rows; its value is never seen by the model."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else 0

    def stop_kwargs(self) -> dict[str, Any]:
        """What `generate` needs to stop at the template's separator, where that is not the end token itself."""
        stop = self.prompts.stop
        return {} if stop is None else {"stop_strings": [stop], "tokenizer": self.tokenizer}

    def until_end(self, row: list[int]) -> list[int]:
        """New ids without the end token, or what a batch adds to a row that ended sooner than others."""
        ends = end_token_ids(self.model)
        row = next((row[:place] for place, token in enumerate(row) if token in ends), row)
        stop = self.prompts.stop
        if stop is None:
            return row
        first = bisect_left(range(len(row)), True, key=lambda last: stop in self.tokenizer.decode(row[: last + 1]))
        return row[: first + 1]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of new ids, the separator and surrounding space removed."""
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=True).strip()
        stop = self.prompts.stop
        return text.removesuffix(stop).strip() if stop else text


def _check_device(device: str | torch.device | None) -> None:
    """Refuses a device that is not here before a checkpoint is read for it."""
    if str(device) == "meta":
        raise ValueError("device 'meta' holds no values, so nothing can be computed on it")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without it
        raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
