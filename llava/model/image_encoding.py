"""Images -> features, as programs ask for it: in one step, or in two where a question decides what is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava.kinds.families import clip_rules
from llava.model.anyres import size_pairs
from llava.model.clip_text import ClipText
from llava.model.clips import Visual, clips_among
from llava.model.configuration import CompressionConfig, CompressionLike
from llava.model.image_rules import ImageRules
from llava.model.multimodal_compressor import BoundCompressor, CompressedTokens, VisionFeatures
from llava.model.multimodal_compressor.adaptive import choose
from llava.model.question_reader import QuestionReader
from llava.model.vision_tokens import VisionTokens
from llava.prompts.tokenization import load_tokenizer

Images = Tensor | Sequence[Visual]
ImageSizes = Sequence[Any] | Tensor


class ImageEncoding:
    """Mixed into the models with a language-modelling head."""

    config: Any
    model: Any
    tokenizer_folder: Path | None

    @property
    def compression(self) -> CompressionConfig | None:
        """The compression, None when every visual token is kept."""
        return self.model.compression

    def set_compression(self, compression: CompressionLike) -> None:
        """Changes the compression, or switches it off with None, without reloading anything.

        Args:
            compression: A `CompressionConfig`, its short form (`"visionzip:54+10"`), its dict, or None.

        Raises:
            ValueError: The method is unknown, or the budget does not fit the tower; the message gives the range.
        """
        self.model.set_compression(compression)

    def compile_vision(self, backend: str = "inductor") -> None:
        """Runs tower, compressor and projector as one compiled graph from now on, except in training.

        The first batches of each size are slow, for they wait for their graph; see `compiled_vision.BUCKETS`.

        Args:
            backend: For `torch.compile`.

        Raises:
            ValueError: The tower or the projector is not whole on one device.
        """
        self.model.compile_vision(backend)

    @property
    def num_patches(self) -> int:
        """Patches of a tile."""
        return self.model.num_patches

    def num_visual_tokens(self, image_sizes: ImageSizes, *, of_one_prompt: bool = False) -> list[int]:
        """How many rows each image will take in the sequence, before any is encoded.

        With an adaptive budget this is the most that it can take; the length of its features is what it takes.

        Args:
            image_sizes: (w, h) of each image, before padding.
            of_one_prompt: Whether they stand in one prompt: some families then cut none of several into tiles.
        """
        rules, sizes = ImageRules.from_config(self.config), size_pairs(image_sizes, height_first=False) or []
        several = of_one_prompt and len(sizes) > 1
        return [rules.num_tokens(size, self.compression, beside_others=several) for size in sizes]

    def encode_images(
        self, images: Images, image_sizes: ImageSizes | None = None, questions: Sequence[str] | None = None
    ) -> Tensor | list[Tensor]:
        """Encodes images once, for `image_features=` of `forward` and `generate`.

        Args:
            images: As for `encode_each`.
            image_sizes: As for `encode_each`.
            questions: As for `encode_each`.

        Returns:
            (B, tokens, D) for (B, 3, H, W), as in LLaVA; else a list, as `encode_each`. With `positions=restore` a list
            too, whose tensors know where their tokens stand; give it as it is. With an adaptive budget always a list.
        """
        features = self.encode_each(images, image_sizes, questions)
        budget = self.compression
        is_listed = budget is not None and (budget.restores or budget.adaptive is not None)
        is_batch = isinstance(images, Tensor) and images.dim() == 4 and len(features) > 0 and not is_listed
        return torch.stack(features) if is_batch else features

    def encode_each(
        self, images: Images, image_sizes: ImageSizes | None = None, questions: Sequence[str] | None = None
    ) -> list[Tensor]:
        """Encodes images, which may differ in their tokens.

        Args:
            images: (B, 3, H, W), (B, T, 3, H, W), or a list of (3, H, W) or (T, 3, H, W); a list may mix sizes of T,
                and hold `ClipPixels`, which are videos.
            image_sizes: (w, h) of each image; needed for tiles of LLaVA-NeXT.
            questions: What is asked about each image; needed for methods that choose by it.

        Returns:
            For each image (its tokens, D), compressed, projected and in order; of a video one for each placeholder.
        """
        clips = clips_among(images, self.config)
        if clips:
            return self._encode_with_clips(images, clips, image_sizes, questions)
        tiles, counts, sizes = tiles_of(images, image_sizes)
        if tiles is None:
            return []
        self._read_questions()
        return self.model.encode_tiles(tiles, counts, sizes, questions)

    def _encode_with_clips(
        self,
        images: Images,
        clips: Mapping[int, Tensor],
        image_sizes: ImageSizes | None,
        questions: Sequence[str] | None,
    ) -> list[Tensor]:
        """`encode_each` of images and videos: videos together, images together, then in their order."""
        self._read_questions()
        asked = None if questions is None else [questions[place] for place in clips]
        found = dict(zip(clips, self.model.clip_features(list(clips.values()), asked), strict=True))
        others = [place for place in range(len(images)) if place not in clips]
        if others:
            sizes = None if image_sizes is None else [image_sizes[place] for place in others]
            asked = None if questions is None else [questions[place] for place in others]
            rows = self.encode_each([images[place] for place in others], sizes, asked)
            found |= {place: [row] for place, row in zip(others, rows, strict=True)}
        return [row for place in range(len(images)) for row in found[place]]

    def num_clip_tokens(self, num_frames: int | None = None) -> list[int]:
        """How many rows a video will take behind each of its placeholders, before it is read.

        Args:
            num_frames: That the model sees of it; None for as many as its family does.

        Raises:
            ValueError: The model sees no videos, or another number of frames, or the budget does not fit a frame.
        """
        lengths: list[int] = self.model.clip_lengths(clip_rules(self.config).num_frames(num_frames))
        return lengths

    def encode_towers(self, images: Images, image_sizes: ImageSizes | None = None) -> VisionTokens:
        """All of images that does not depend on a question, for `project_each`.

        Args:
            images: As for `encode_each`; at least one.
            image_sizes: As for `encode_each`.
        """
        tiles, counts, sizes = tiles_of(images, image_sizes)
        if tiles is None:
            raise ValueError("there is no image to encode")
        return self.model.encode(tiles, counts, sizes)

    def project_each(
        self, encoded: VisionTokens, image_sizes: ImageSizes | None = None, questions: Sequence[str] | None = None
    ) -> list[Tensor]:
        """What `encode_each` gives, of images that `encode_towers` has seen.

        Args:
            encoded: Of `encode_towers`.
            image_sizes: (w, h) of each image; needed for tiles of LLaVA-NeXT.
            questions: As for `encode_each`.
        """
        self._read_questions()
        return self.model.project(encoded, size_pairs(image_sizes, height_first=False), questions)

    def _read_questions(self) -> None:
        """Makes the model able to read questions, if its compressor chooses by them."""
        if self.model.reads_questions:
            self.learn_to_read()

    def learn_to_read(self) -> None:
        """Makes the model able to read questions.

        Raises:
            ValueError: It has no tokenizer of a checkpoint.
        """
        if self.model.question_reader is None:
            if self.tokenizer_folder is None:
                raise ValueError("this compression reads the question, and the model has no tokenizer of a checkpoint")
            tokenizer = load_tokenizer(self.tokenizer_folder)
            self.model.question_reader = QuestionReader(tokenizer, self.model.get_input_embeddings)

    def use_clip_text(self, folder: str | Path) -> None:
        """Gives methods such as CDPruner CLIP's text tower to read questions with; it is not saved with the model.

        Args:
            folder: A CLIP checkpoint of transformers' format whose vision tower is the model's.

        Raises:
            CheckpointError: It is no CLIP, or its vision tower is another one.
        """
        self.model.clip_text = ClipText(folder, self.model.vision_tower)

    def compress_images(
        self, images: Images, image_sizes: ImageSizes | None = None, questions: Sequence[str] | None = None
    ) -> CompressedTokens:
        """What the compressor keeps of each tile, for pictures and measurements.

        Args:
            images: As for `encode_each`; the tiles of all images are concatenated.
            image_sizes: As for `encode_each`.
            questions: As for `encode_each`.

        Raises:
            ValueError: The model has no compression, or there is no image.
        """
        return choose(*self.selection(images, image_sizes, questions))

    def selection(
        self, images: Images, image_sizes: ImageSizes | None = None, questions: Sequence[str] | None = None
    ) -> tuple[BoundCompressor, VisionFeatures]:
        """The compressor and the features that it chooses from, so that the choice itself can be measured.

        Args:
            images: As for `compress_images`.
            image_sizes: As for `encode_each`.
            questions: As for `encode_each`.

        Raises:
            ValueError: The model has no compression, or there is no image.
        """
        if isinstance(images, Tensor) and images.dim() == 3:
            images = images.unsqueeze(0)
        tiles, counts, sizes = tiles_of(images, image_sizes)
        if tiles is None:
            raise ValueError("there is no image to compress")
        self._read_questions()
        chosen: tuple[BoundCompressor, VisionFeatures] = self.model.selection(tiles, counts, sizes, questions)
        return chosen

    def clip_selection(self, clips: Sequence[Tensor], questions: Sequence[str] | None = None) -> Callable[[], object]:
        """The choice of tokens of videos alone, the features being ready, so that it can be measured.

        Args:
            clips: (T, 3, H, W) each.
            questions: As for `encode_each`, one for each video.

        Raises:
            ValueError: The model has no compression.
        """
        self._read_questions()
        work: Callable[[], object] = self.model.clip_selection(clips, questions)
        return work


def tiles_of(
    images: Images, image_sizes: ImageSizes | None
) -> tuple[Tensor | None, list[int] | None, list[tuple[int, int]] | None]:
    """Tiles of all images (T, 3, H, W), None without any; tiles of each image, None for single ones; their (w, h)."""
    sizes = size_pairs(image_sizes, height_first=False)
    if isinstance(images, Tensor) and images.dim() == 4:
        return images, None, sizes if sizes is not None and len(sizes) == len(images) else None
    given = [image for image in images if isinstance(image, Tensor)]  # what sees no videos has refused them
    tiles = [image.unsqueeze(0) if image.dim() == 3 else image for image in given]
    return (torch.cat(tiles), [len(image) for image in tiles], sizes) if tiles else (None, [], sizes)
