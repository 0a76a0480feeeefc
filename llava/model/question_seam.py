"""What a compressor is told of the question: the part of the seam that knows of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from llava.model.clip_text import ClipText
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import BoundCompressor, TileShape, VisionFeatures, compressor_of
from llava.model.multimodal_compressor.registry import TEXT_NEEDS, Need
from llava.model.question_reader import QuestionReader
from llava.model.stages import before_language_model, inside_language_model


class QuestionSeam:
    """Mixed into `VisionSeam`.

    Attributes:
        question_reader: Embeds questions; None until a compressor asks for it.
        clip_text: CLIP's view of images and questions; None unless it was given.
    """

    question_reader: QuestionReader | None = None
    clip_text: ClipText | None = None

    @property
    def tile_shape(self) -> TileShape:
        """The shape of a tile."""
        raise NotImplementedError

    @property
    def bound_compressor(self) -> BoundCompressor | None:
        """The compressor in use, with its budget."""
        raise NotImplementedError

    @property
    def reads_questions(self) -> bool:
        """Whether what is kept of an image depends on the question about it."""
        bound = self.bound_compressor
        return bound is not None and bool(self.text_needs(bound))

    def clip_fingerprint(self, budget: CompressionConfig | None) -> str:
        """Of the CLIP that reads questions for a budget; empty where none does."""
        before = before_language_model(budget)
        if before is None or self.clip_text is None:
            return ""
        needs = self.text_needs(compressor_of(before).bind(before, self.tile_shape))
        return self.clip_text.fingerprint if "clip_joint" in needs else ""

    def ignores_clip(self, budgets: Iterable[CompressionConfig | None]) -> bool:
        """Whether there is a CLIP that no budget reads questions by."""
        return self.clip_text is not None and not any(map(self.clip_fingerprint, budgets))

    def is_text_free(self, budget: CompressionConfig | None) -> bool:
        """Whether a budget's method would read questions by CLIP, and has none."""
        before = before_language_model(budget)
        wanted = before is not None and "clip_joint" in compressor_of(before).wants
        return wanted and self.clip_text is None

    def is_multi_turn_safe(self, budget: CompressionConfig | None) -> bool:
        """Whether a budget keeps the same of an image whatever is asked, so that one encoding serves every turn."""
        if inside_language_model(budget) is not None:
            return False
        before = before_language_model(budget)
        return before is None or not self.text_needs(compressor_of(before).bind(before, self.tile_shape))

    def text_needs(self, bound: BoundCompressor) -> set[Need]:
        """What must be known of a question; CLIP's view of it only where its text tower is at hand."""
        lacking: set[Need] = {"clip_joint"} if self.clip_text is None else set()
        return set((bound.needs | (bound.compressor.wants - lacking)) & TEXT_NEEDS)

    def check_question(self, question: str) -> None:
        """Looks whether the compressor in use can choose by a question, before an image is encoded.

        Raises:
            ValueError: It reads questions, and this one has no word.
        """
        bound = self.bound_compressor
        if bound is not None and self.question_reader is not None and "question_embeds" in self.text_needs(bound):
            self.question_reader.ids(question, bound.compressor.words)

    def with_questions(
        self,
        features: VisionFeatures,
        bound: BoundCompressor,
        counts: Sequence[int] | None,
        questions: Sequence[str] | None,
    ) -> VisionFeatures:
        """Adds what the compressor reads of the questions, one for each image.

        Raises:
            ValueError: It reads them and they are not known, or their number is not that of the images.
        """
        needs = self.text_needs(bound)
        if not needs:
            return features
        counts = [1] * len(features.content) if counts is None else counts
        if questions is None or len(questions) != len(counts) or self.question_reader is None:
            given = "none were given" if questions is None else f"{len(questions)} for {len(counts)} images were given"
            raise ValueError(
                f"compression {bound.budget} chooses by the question: give questions=, one for each image; {given}"
            )
        found: dict[str, Any] = {}
        per_tile = [question for question, count in zip(questions, counts, strict=True) for _ in range(count)]
        if "question_embeds" in needs:
            found["question_embeds"] = self.question_reader.embed(per_tile, bound.compressor.words)
        if "clip_joint" in needs:
            if self.clip_text is None:
                raise ValueError(f"compression {bound.budget} needs CLIP's text tower: give --clip-text, clip_text=")
            found["clip_joint"] = self.clip_text.joint(features.source, per_tile)
        return replace(features, **found)
