"""The seam for videos: frames stand in the tower's batch axis; each is compressed by itself, or all of a clip at once.

Shapes: F frames of all clips, P patches a frame, K kept tokens a frame, D channels of the language model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from llava.kinds.clips import ClipRules
from llava.kinds.families import clip_rules
from llava.model.clip_counts import FrameCounts
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import BoundCompressor, VisionFeatures, compressor_of
from llava.model.multimodal_compressor.adaptive import compress_adaptively
from llava.model.multimodal_compressor.clip_share import SharedClips, choose_across
from llava.model.multimodal_encoder import extract_features
from llava.model.offloading import like_weights
from llava.model.stages import before_language_model
from llava.model.tile_facts import TileFacts
from llava.model.vision_tokens import VisionTokens


class ClipSeam:
    """Mixed into the base models of families that see videos, before `MultimodalForward`.

    A family overrides `clip_tower`, `check_videos`, `arrange_frames` and `in_clips`.
    """

    config: Any
    vision_tower: nn.Module
    multi_modal_projector: nn.Module
    compression: CompressionConfig | None
    text_needs: Any
    with_questions: Any

    @property
    def clip_rules(self) -> ClipRules:
        """How many frames it sees, and which."""
        return clip_rules(self.config)

    @property
    def clip_tower(self) -> nn.Module:
        """The tower that sees frames; by default that of images."""
        return self.vision_tower

    @property
    def frame_counts(self) -> FrameCounts:
        """What is known of frames before one is encoded."""
        return FrameCounts.from_config(self.config)

    def check_videos(self) -> None:
        """Refuses a config whose videos would be misread; a family may override it.

        Raises:
            ValueError: The message names the entry.
        """

    def clip_lengths(self, num_frames: int | None) -> list[int]:
        """Rows behind each placeholder of a video; see `FrameCounts.lengths`."""
        self.check_videos()
        return self.frame_counts.lengths(self.compression, num_frames)

    @property
    def bound_for_clips(self) -> BoundCompressor | None:
        """The compressor of frames, with its budget; None without one."""
        budget, counts = before_language_model(self.compression), self.frame_counts
        if budget is None:
            return None
        counts.check(budget)
        return compressor_of(budget).bind(budget, counts.shape)

    def arrange_frames(self, features: VisionFeatures) -> VisionFeatures:
        """What the tower says of frames, as a compressor takes it: here a family pools.

        Args:
            features: Of F frames.
        """
        return features

    def in_clips(self, rows: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
        """The projected rows of all frames behind their placeholders; by default frame by frame as one sequence.

        Args:
            rows: (K, D) of each of the F frames.
            counts: Frames of each clip.

        Returns:
            (rows, D) of each placeholder of each clip.
        """
        if self.clip_rules.marks_frames:
            return list(rows)
        frames = iter(rows)
        return [torch.cat([next(frames) for _ in range(count)]) for count in counts]

    def encode_clips(self, frames: Tensor, counts: Sequence[int]) -> VisionTokens:
        """All of videos that no question decides: tower and compressor (if any).

        Args:
            frames: (F, 3, H, W), the frames of all clips, any float dtype.
            counts: Frames of each clip.
        """
        learns = frames.requires_grad or any(p.requires_grad for p in self.clip_tower.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            self.check_videos()
            bound = self.bound_for_clips
            features = self._read_frames(like_weights(frames, self.clip_tower, cast=True), bound, counts)
            if bound is None:
                return VisionTokens(self._projected_rows(features), counts)
            if bound.is_late:
                return VisionTokens(features.patches, counts, features=features)
            return self._compress_frames(features, bound, counts)

    def project_clips(self, encoded: VisionTokens, questions: Sequence[str] | None = None) -> list[Tensor]:
        """What the language model is given of videos.

        Args:
            encoded: Of `encode_clips`.
            questions: What is asked about each clip; needed where the compressor chooses by it.

        Returns:
            (rows, D) of each placeholder, clip after clip.
        """
        counts = list(encoded.counts or ())
        if encoded.features is not None:
            bound = self.bound_for_clips
            assert bound is not None
            features = self.with_questions(encoded.features, bound, counts, questions)
            encoded = self._compress_frames(features, bound, counts)
        rows: Sequence[Tensor] = list(encoded.tokens)
        if encoded.splits is not None:
            rows = [row[: sum(split)] for row, split in zip(rows, encoded.splits, strict=True)]
        return self.in_clips(rows, counts)

    def clip_features(self, clips: Sequence[Tensor], questions: Sequence[str] | None = None) -> list[list[Tensor]]:
        """From pixels to what the language model is given, both steps.

        Args:
            clips: (T, 3, H, W) each.
            questions: As for `project_clips`.

        Returns:
            For each clip (rows, D) of each of its placeholders.
        """
        counts = [len(pixels) for pixels in clips]
        found = iter(self.project_clips(self.encode_clips(torch.cat(list(clips)), counts), questions))
        return [[next(found) for _ in range(self.clip_rules.placeholders(count))] for count in counts]

    def _read_frames(self, frames: Tensor, bound: BoundCompressor | None, counts: Sequence[int]) -> VisionFeatures:
        """The tower, what a compressor needs of it, and the family's arrangement."""
        layer = self.config.vision_feature_layer
        if bound is None:
            return self.arrange_frames(extract_features(self.clip_tower, frames, layer))
        features = extract_features(self.clip_tower, frames, layer, bound.needs, bound.grid)
        facts: TileFacts = {}
        if "image_index" in bound.needs:
            clip = [index for index, count in enumerate(counts) for _ in range(count)]
            facts["image_index"] = torch.tensor(clip, device=frames.device)
        if "padding" in bound.needs:
            facts["padding"] = frames.new_zeros(features.source.shape[:2], dtype=torch.bool)
        return self.arrange_frames(replace(features, **facts))

    def _projected_rows(self, features: VisionFeatures) -> Tensor:
        """(F, N, D): all rows of frames without compression, projected."""
        if features.projected is not None:
            return features.projected
        rows = features.content if self.frame_counts.shape.keep_cls else features.patches
        return self.multi_modal_projector(like_weights(rows, self.multi_modal_projector).contiguous())

    def clip_selection(
        self, clips: Sequence[Tensor], questions: Sequence[str] | None = None
    ) -> Callable[[], tuple[Tensor, object]]:
        """The choice of tokens alone, the features being ready, so that it can be measured.

        Args:
            clips: (T, 3, H, W) each.
            questions: As for `project_clips`.

        Raises:
            ValueError: The model has no compression, or it reads questions that are not given.
        """
        bound, counts = self.bound_for_clips, [len(pixels) for pixels in clips]
        if bound is None:
            raise ValueError("the model has no compression; call set_compression('visionzip:14+3') or the like first")
        frames = like_weights(torch.cat(list(clips)), self.clip_tower, cast=True)
        features = self.with_questions(self._read_frames(frames, bound, counts), bound, counts, questions)
        features = self._as_compressed_frames(features, bound)
        return lambda: self._choose(features, bound, counts)

    def _as_compressed_frames(self, features: VisionFeatures, bound: BoundCompressor) -> VisionFeatures:
        """The features as the compressor takes them, with the projector's rows where it reads or keeps these."""
        if features.projected is not None or not ("projected" in bound.needs or bound.place == "projected"):
            return features
        rows = self.multi_modal_projector(like_weights(features.source, self.multi_modal_projector).contiguous())
        features = replace(features, projected=rows)
        return replace(features, content=rows, has_cls=False) if bound.place == "projected" else features

    def _choose(
        self, features: VisionFeatures, bound: BoundCompressor, counts: Sequence[int]
    ) -> tuple[Tensor, Sequence[tuple[int, int]] | SharedClips | None]:
        """(F, K, C): what is kept of each frame, and how many rows where frames differ.

        Where frames share their clip's total, a clip's rows stand in them frame after frame.
        """
        if bound.compressor.across is not None:
            shared = choose_across(bound, features, counts)
            return shared.tokens.view(len(features.content), bound.budget.num_tokens, -1), shared
        if bound.is_uneven:  # with tiles=gain the frames of a clip share its total
            uneven = compress_adaptively(bound, features, counts)
            return uneven.tokens, uneven.splits
        return bound(features).tokens, None

    def _compress_frames(self, features: VisionFeatures, bound: BoundCompressor, counts: Sequence[int]) -> VisionTokens:
        """(F, K, D), projected: what is kept of each frame, as `_choose` has it."""
        tokens, splits = self._choose(self._as_compressed_frames(features, bound), bound, counts)
        if not bound.gives_projected:
            tokens = self.multi_modal_projector(like_weights(tokens, self.multi_modal_projector).contiguous())
        if isinstance(splits, SharedClips):
            if not self.clip_rules.marks_frames:
                return VisionTokens(tokens, counts)
            tokens, splits = splits.per_frame(tokens.flatten(0, 1))
        return VisionTokens(tokens, counts, splits=splits)


__all__ = ["ClipSeam"]
