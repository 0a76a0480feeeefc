"""Conversations and images, from JSON or a table, as a lazy map-style dataset."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.data.model_rules import check_aspect_ratio
from llava.data.open_records import names_files
from llava.data.records import ImageRef, StoredImage, images_of, printable, read_records, turns_of
from llava.data.templates import PromptTemplate, closing_separator, encode_spans
from llava.images.decoding import largest_on_the_way
from llava.images.paths import path_inside
from llava.images.processing import (
    DEFAULT_MAX_PIXELS,
    ImageDecodeError,
    ImageTooLargeError,
    load_image,
    process_beside_others,
    process_images,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from llava.model.vision_tokens import VisionTokens

__all__ = [
    "NO_TARGETS",
    "Example",
    "LlavaDataset",
    "TrainingSample",
    "SampleError",
    "Skipped",
    "images_of",
    "read_records",
    "turns_of",
]

ImageSize = tuple[int, int]
NO_TARGETS = "no targets"


@dataclass(frozen=True)
class TrainingSample:
    """One conversation, ready for a batch.

    Attributes:
        input_ids: (T,), `IMAGE_TOKEN_INDEX` once per image.
        labels: (T,), `IGNORE_INDEX` where nothing is learned.
        images: One tensor an image: (3, H, W), or (tiles, 3, H, W).
        image_sizes: (w, h) of each image before any resizing.
        vision_tokens: What the tower made of the images, in place of `images`; None if it has not seen them.
    """

    input_ids: Tensor
    labels: Tensor
    images: list[Tensor]
    image_sizes: list[ImageSize]
    vision_tokens: VisionTokens | None = None


@dataclass(frozen=True)
class Example:
    """One conversation as it is trained on, its images decoded but not yet processed.

    Attributes:
        input_ids: T ids, `IMAGE_TOKEN_INDEX` once per image.
        labels: T labels, `IGNORE_INDEX` where nothing is learned.
        images: RGB, those whose placeholder was not cut off.
        num_tokens: Length in the model, visual tokens included, before it is cut.
        num_images: Images of the conversation, those that were cut off included.
    """

    input_ids: list[int]
    labels: list[int]
    images: list[Image]
    num_tokens: int
    num_images: int


@dataclass(frozen=True)
class Skipped:
    """A sample that cannot be trained on; it is counted and reported, never replaced by zeros.

    Attributes:
        reason: `undecodable image`, `image too large` (more pixels than the limit, by its header or once it is padded
            or scaled), or `NO_TARGETS` after truncation.
        name: The image's path or its row in a table, or the sample's id.
        detail: What the decoder says, where there is more to say.
    """

    reason: str
    name: str
    detail: str = field(default="", compare=False)

    @property
    def message(self) -> str:
        """Name and detail, for people."""
        return self.detail if self.name in self.detail else f"{self.name}: {self.detail}".removesuffix(": ")


class SampleError(ValueError):
    """A sample cannot be made as its entry says; the message names it.

    Attributes:
        kind: `missing image`, `image path` (it leaves the folder) or `conversation`.
    """

    def __init__(self, message: str, kind: str = "conversation") -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, str]]:
        return type(self), (str(self), self.kind)  # errors of loading processes are sent to the main one


class LlavaDataset(Dataset[TrainingSample | Skipped]):
    """Opens, tokenises and preprocesses one conversation at a time, when it is asked for."""

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        *,
        tokenizer: Any,
        template: PromptTemplate,
        image_processor: Any,
        image_config: Any,
        image_folder: str | Path | None,
        count_visual_tokens: Callable[[list[ImageSize]], list[int]],
        max_length: int,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
    ) -> None:
        """Keeps what is needed; opens nothing.

        Args:
            records: Of `llava.data.open_records.open_records`.
            tokenizer: Of `llava.prompts.tokenization.load_tokenizer`.
            template: Of `llava.data.templates.get_template`.
            image_processor: Of `load_pretrained_model`.
            image_config: Says `image_aspect_ratio` and, for tiles, `image_grid_pinpoints`, as a model's config does.
            image_folder: Where the paths of the records begin.
            count_visual_tokens: Sizes (w, h) of all images of a sample to tokens after compression.
            max_length: Tokens, visual ones included, that a sample is cut to.
            max_pixels: Images whose header announces more are skipped undecoded, and those of which padding or scaling
                would make more; None for no limit.

        Raises:
            ValueError: The records name image files but there is no folder, or the config's aspect ratio is unknown.
        """
        check_aspect_ratio(image_config)
        _warn_of_separator(template, tokenizer)
        if image_folder is None and names_files(records):
            raise ValueError("the data name images, so --image_folder must be given")
        self.records = records
        self.tokenizer = tokenizer
        self.template = template
        self.image_processor = image_processor
        self.image_config = image_config
        self.image_folder = None if image_folder is None else Path(image_folder)
        self.count_visual_tokens = count_visual_tokens
        self.max_length = max_length
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.records)

    @property
    def modality_lengths(self) -> list[int]:
        """Words of each sample, at least 1, negative for text-only ones: what LLaVA groups batches by."""
        lengths = []
        for record in self.records:
            words = sum(len(turn["value"].split()) for turn in record["conversations"])
            lengths.append(max(words, 1) if images_of(record) else -max(words, 1))
        return lengths

    def __getitem__(self, index: int) -> TrainingSample | Skipped:
        example = self.example(index)
        if isinstance(example, Skipped):
            return example
        process = process_beside_others if example.num_images > 1 else process_images
        return TrainingSample(
            input_ids=torch.tensor(example.input_ids, dtype=torch.int64),
            labels=torch.tensor(example.labels, dtype=torch.int64),
            images=[
                process([image], self.image_processor, self.image_config, self.max_pixels)[0]
                for image in example.images
            ],
            image_sizes=[image.size for image in example.images],
        )

    def example(self, index: int) -> Example | Skipped:
        """Everything of a sample but the pixels' processing: what training and validation share.

        Raises:
            SampleError: An image is missing or leaves the folder, or the conversation does not fit the template.
        """
        record = self.records[index]
        images = self.load_images(record)
        if isinstance(images, Skipped):
            return images
        try:
            ids, labels = self.encode(record)
        except ValueError as error:
            raise SampleError(f"sample {record.get('id')!r} (entry {index}): {error}") from error
        length, num_tokens = self._cut(ids, [image.size for image in images])
        ids, labels = ids[:length], labels[:length]
        if all(label == IGNORE_INDEX for label in labels):
            return Skipped(NO_TARGETS, printable(str(record.get("id", index))))
        return Example(ids, labels, images[: ids.count(IMAGE_TOKEN_INDEX)], num_tokens, len(images))

    def load_images(self, record: dict[str, Any]) -> list[Image] | Skipped:
        """Decodes the images of an entry.

        Raises:
            SampleError: An image is missing or leaves the folder.
        """
        images: list[Image] = []
        for reference in images_of(record):
            name = self.name_of(reference)
            try:
                encoded = self.encoded(reference, record.get("id"))
                image = load_image(encoded, self.max_pixels, self.image_config, self.image_processor)
            except OSError as error:
                where = f"image {name} of sample {record.get('id')!r}"
                raise SampleError(f"{where} cannot be read: {error.strerror or error}", "missing image") from error
            except ImageTooLargeError as error:
                return Skipped("image too large", name, str(error))
            except ImageDecodeError as error:
                return Skipped("undecodable image", name, str(error))
            images.append(image)
        return images

    def encoded(self, image: ImageRef, sample_id: Any) -> Path | bytes:
        """What an image is decoded from: its file, or its bytes in a table.

        Args:
            image: Of `images_of`.
            sample_id: For messages.

        Raises:
            SampleError: It is missing or leaves the folder.
            OSError: It cannot be read.
        """
        if isinstance(image, StoredImage):
            content = image.read()
            if content is None:
                message = f"image {image.name} of sample {sample_id!r} is not in the table, which only names it"
                raise SampleError(f"{message}; save the table with its images embedded", "missing image")
            return content
        path = self.path_of(image)
        if not path.is_file():
            raise SampleError(f"image {path} of sample {sample_id!r} does not exist", "missing image")
        return path

    def name_of(self, image: ImageRef) -> str:
        """An image's path, or its row in a table, for messages."""
        return image.name if isinstance(image, StoredImage) else str(Path(self.image_folder or "", image))

    def is_too_large(self, size: ImageSize) -> bool:
        """Whether more pixels than the limit would be made of an image of this size (w, h)."""
        if self.max_pixels is None or self.image_config is None:
            return False
        return largest_on_the_way(size, self.image_config, self.image_processor, self.max_pixels) > self.max_pixels

    def encode(self, record: dict[str, Any]) -> tuple[list[int], list[int]]:
        """Ids and labels of an entry, not truncated; no image is opened.

        Raises:
            ValueError: The conversation does not fit the template.
        """
        spans = self.template.spans(turns_of(record))
        return encode_spans(spans, self.tokenizer, has_image=bool(images_of(record)))

    def _cut(self, ids: Sequence[int], sizes: list[ImageSize]) -> tuple[int, int]:
        """How many of the ids fit, and the tokens of all; an image that starts in time is kept, the model cuts it."""
        visual = iter(self.count_visual_tokens(sizes) if sizes else [])
        total, fitting = 0, 0
        for token in ids:
            fitting += total < self.max_length
            total += next(visual) if token == IMAGE_TOKEN_INDEX else 1
        return fitting, total

    def path_of(self, name: str) -> Path:
        """The path of an image.

        Raises:
            SampleError: It leaves the folder.
        """
        assert self.image_folder is not None
        try:
            return path_inside(self.image_folder, name)
        except ValueError as error:
            raise SampleError(f"image {error}; it must be a path inside --image_folder", "image path") from error


def _warn_of_separator(template: PromptTemplate, tokenizer: Any) -> None:
    """Warns if the tokenizer splits the separator that ends an answer: the model would not learn to stop."""
    separator = closing_separator(template)
    if tokenizer is None or not separator:
        return
    if tokenizer.convert_tokens_to_ids(separator) in (None, tokenizer.unk_token_id):
        warnings.warn(
            f"{separator!r}, which closes an answer, is no token of this tokenizer: the model would learn its letters "
            "and not to stop; choose the --version that fits the language model",
            stacklevel=3,
        )
