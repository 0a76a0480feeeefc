"""LLaVA's instruction JSON as a lazy map-style dataset."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.data.templates import PromptTemplate, Turn, encode_spans, place_images
from llava.image_processing import ImageDecodeError, load_image, process_images

if TYPE_CHECKING:
    from PIL.Image import Image

ImageSize = tuple[int, int]
_ROLES = ("human", "gpt")


@dataclass(frozen=True)
class Sample:
    """One conversation, ready for a batch.

    Attributes:
        input_ids: (T,), `IMAGE_TOKEN_INDEX` once per image.
        labels: (T,), `IGNORE_INDEX` where nothing is learned.
        images: One tensor an image: (3, H, W), or (tiles, 3, H, W).
        image_sizes: (w, h) of each image before any resizing.
    """

    input_ids: Tensor
    labels: Tensor
    images: list[Tensor]
    image_sizes: list[ImageSize]


@dataclass(frozen=True)
class Skipped:
    """A sample that cannot be trained on; it is counted and reported, never replaced by zeros.

    Attributes:
        reason: `undecodable image`, or `no targets` after truncation.
        name: The image's path, or the sample's id.
    """

    reason: str
    name: str


class SampleError(ValueError):
    """A sample cannot be made as its entry says; the message names it."""


def read_records(path: str | Path, template: PromptTemplate) -> list[dict[str, Any]]:
    """Reads a JSON list or a JSONL file of `{id, image?, conversations: [{from, value}, ...]}` and checks each entry.

    Args:
        path: JSONL if it ends so, with an object a line.
        template: What the conversations must fit.

    Raises:
        ValueError: The file or one of its entries is not of this form; names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"--data_path {path} is not a file")
    try:
        text = path.read_text(encoding="utf-8")
        entries = _json_lines(text) if path.suffix == ".jsonl" else json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} must hold a non-empty list of conversations")
    if path.suffix != ".jsonl":
        entries = [(f"entry {number}", record) for number, record in enumerate(entries)]
    for place, record in entries:
        problem = _problem_of(record, template)
        if problem:
            name = record.get("id") if isinstance(record, dict) else None
            raise ValueError(f"{path}, {place} (id {name!r}): {problem}")
    return [record for _, record in entries]


def _json_lines(text: str) -> list[tuple[str, Any]]:
    """The objects of a JSONL text, each with its place."""
    entries = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON strings may hold other line ends
        if line.strip():
            try:
                entries.append((f"line {number}", json.loads(line)))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error.msg} (column {error.colno})") from error
    return entries


def _problem_of(record: Any, template: PromptTemplate) -> str | None:
    """What keeps an entry from being trained on, None if nothing does; opens and tokenises nothing."""
    if not isinstance(record, dict) or not isinstance(record.get("conversations"), list):
        return "not an object with a list `conversations`"
    for turn in record["conversations"]:
        if not isinstance(turn, dict) or turn.get("from") not in _ROLES or not isinstance(turn.get("value"), str):
            return f"a turn must be {{'from': 'human' or 'gpt', 'value': text}}, got {turn!r:.200}"
    for name in image_names(record):
        if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
            return f"image {name!r} must be a path inside --image_folder"
    try:
        turns = turns_of(record)
        template.check(turns)
    except ValueError as error:
        return str(error)
    if not any(turn.role == "gpt" for turn in turns):
        return "no turn from 'gpt' after one from 'human', so there is nothing to learn"
    return None


def image_names(record: dict[str, Any]) -> list[str]:
    """The images of an entry: `image` is absent, null, a path, or a list of paths."""
    image = record.get("image")
    if image is None:
        return []
    return list(image) if isinstance(image, list) else [image]


def turns_of(record: dict[str, Any]) -> list[Turn]:
    """The turns of an entry, its images placed; as in LLaVA, one that the assistant opens loses its first turn.

    Raises:
        ValueError: The placeholders are not as many as the images.
    """
    turns = [Turn(turn["from"], turn["value"]) for turn in record["conversations"]]
    if turns and turns[0].role == "gpt":
        turns = turns[1:]
    num_images = len(image_names(record))
    return place_images(turns, num_images) if num_images else turns


class LlavaDataset(Dataset[Sample | Skipped]):
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
    ) -> None:
        """Keeps what is needed; opens nothing.

        Args:
            records: Of `read_records`.
            tokenizer: Of `llava.tokenization.load_tokenizer`.
            template: Of `llava.data.templates.get_template`.
            image_processor: Of `load_pretrained_model`.
            image_config: Says `image_aspect_ratio` and, for tiles, `image_grid_pinpoints`, as a model's config does.
            image_folder: Where the paths of the records begin.
            count_visual_tokens: `model.num_visual_tokens`: sizes (w, h) to tokens after compression.
            max_length: Tokens, visual ones included, that a sample is cut to.

        Raises:
            ValueError: There are images but no folder.
        """
        if image_folder is None and any(image_names(record) for record in records):
            raise ValueError("the data name images, so --image_folder must be given")
        self.records = records
        self.tokenizer = tokenizer
        self.template = template
        self.image_processor = image_processor
        self.image_config = image_config
        self.image_folder = None if image_folder is None else Path(image_folder)
        self.count_visual_tokens = count_visual_tokens
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.records)

    @property
    def modality_lengths(self) -> list[int]:
        """Words of each sample, negative for text-only ones: what LLaVA groups batches by."""
        lengths = []
        for record in self.records:
            words = sum(len(turn["value"].split()) for turn in record["conversations"])
            lengths.append(words if image_names(record) else -words)
        return lengths

    def __getitem__(self, index: int) -> Sample | Skipped:
        record = self.records[index]
        images: list[Image] = []
        for name in image_names(record):
            path = self._inside_folder(name)
            try:
                images.append(load_image(path))
            except FileNotFoundError as error:
                raise SampleError(f"image {path} of sample {record.get('id')!r} does not exist") from error
            except ImageDecodeError:
                return Skipped("undecodable image", str(path))
        sizes = [image.size for image in images]
        try:
            ids, labels = self.encode(record)
        except ValueError as error:
            raise SampleError(f"sample {record.get('id')!r} (entry {index}): {error}") from error
        length = self._cut(ids, sizes)
        labels = labels[:length]
        if all(label == IGNORE_INDEX for label in labels):
            return Skipped("no targets", str(record.get("id", index)))
        kept = sum(token == IMAGE_TOKEN_INDEX for token in ids[:length])
        return Sample(
            input_ids=torch.tensor(ids[:length], dtype=torch.int64),
            labels=torch.tensor(labels, dtype=torch.int64),
            images=[process_images([image], self.image_processor, self.image_config)[0] for image in images[:kept]],
            image_sizes=sizes[:kept],
        )

    def encode(self, record: dict[str, Any]) -> tuple[list[int], list[int]]:
        """Ids and labels of an entry, not truncated; no image is opened.

        Raises:
            ValueError: The conversation does not fit the template.
        """
        spans = self.template.spans(turns_of(record))
        return encode_spans(spans, self.tokenizer, has_image=bool(image_names(record)))

    def _cut(self, ids: Sequence[int], sizes: list[ImageSize]) -> int:
        """How many of the ids fit; an image that starts in time is kept, the model cuts its end."""
        visual = iter(self.count_visual_tokens(sizes) if sizes else [])
        total = 0
        for position, token in enumerate(ids):
            if total >= self.max_length:
                return position
            total += next(visual) if token == IMAGE_TOKEN_INDEX else 1
        return len(ids)

    def _inside_folder(self, name: str) -> Path:
        """The path of an image.

        Raises:
            SampleError: It leaves the folder, by a symlink or else.
        """
        assert self.image_folder is not None
        path = self.image_folder / name
        if not path.resolve().is_relative_to(self.image_folder.resolve()):
            raise SampleError(
                f"image {name!r} leaves --image_folder {self.image_folder} (it is a link to {path.resolve()})"
            )
        return path
