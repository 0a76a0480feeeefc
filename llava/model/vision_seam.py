"""The one seam that is overridden in transformers' models: pixels -> tower -> compressor -> projector -> sequence.

Shapes: T tiles, P patches a tile, K kept tokens a tile, C channels of the tower, D channels of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from llava.kinds.families import family_of
from llava.model.anyres import TileLayout
from llava.model.compiled_vision import CompiledVision, check_compilable
from llava.model.configuration import CompressionLike, as_compression
from llava.model.image_rules import ImageRules
from llava.model.language_pruning.fit import check_pruner
from llava.model.multimodal_compressor import (
    BoundCompressor,
    CompressedTokens,
    VisionFeatures,
    compressor_of,
)
from llava.model.multimodal_compressor.adaptive import compress_adaptively
from llava.model.multimodal_compressor.registry import Need
from llava.model.multimodal_encoder import extract_features, selected_depth, tower_has_cls
from llava.model.multimodal_encoder.tower import VisionTowerView
from llava.model.offloading import like_weights, own_parameter
from llava.model.restore.placed_tokens import placed_images
from llava.model.restore.refusals import check_restore
from llava.model.stages import before_language_model, check_methods, inside_language_model, pruner_of, with_plugin
from llava.model.tile_facts import TileFacts, tile_facts
from llava.model.tile_shares import compress_unevenly, shared_bounds
from llava.model.vision_rules import VisionRules
from llava.model.vision_tokens import VisionTokens


class VisionSeam(VisionRules):
    """Mixed into transformers' `LlavaModel` and `LlavaNextModel`, the models without a language-modelling head."""

    language_model: Any
    image_newline: Tensor
    compiled_vision: CompiledVision | None = None

    def set_compression(self, compression: CompressionLike) -> None:
        """Changes the compression, or switches it off with None. Nothing is reloaded.

        Raises:
            ValueError: A method is unknown, or a budget does not fit the tower or the language model.
        """
        budget = as_compression(compression)
        if budget is not None:
            check_methods(budget)
            before, inside = before_language_model(budget), inside_language_model(budget)
            if before is not None:
                compressor_of(before).check(before, self.tile_shape)
            if budget.restores:
                check_restore(
                    budget, self.language_model.config, is_tiled=TileLayout.from_config(self.config).has_tiles
                )
            if inside is not None:
                rows = ImageRules.from_config(self.config).most_rows(budget)
                check_pruner(pruner_of(inside), inside, self.config.text_config, rows)
            budget = with_plugin(budget)
        self.config.compression = None if budget is None else budget.to_dict()

    def compile_vision(self, backend: str = "inductor") -> None:
        """Encodes images by compiled graphs from now on, wherever no gradient is asked for.

        Args:
            backend: For `torch.compile`.

        Raises:
            ValueError: The tower or the projector is not whole on one device.
        """
        check_compilable(self)
        self.compiled_vision = CompiledVision(backend)

    def check_vision_config(self) -> None:
        """Refuses a config that the seam would misread.

        Raises:
            ValueError: A field has a value that is not supported; the message names it.
        """
        has_cls = tower_has_cls(self.config.vision_config)
        layer, strategy = self.config.vision_feature_layer, self.config.vision_feature_select_strategy
        if not isinstance(layer, int):
            raise ValueError(f"vision_feature_layer {layer!r}: only a single layer is supported")
        if strategy not in ("default", "full"):
            raise ValueError(f"vision_feature_select_strategy {strategy!r} is none of 'default', 'full'")
        if strategy == "default" and not has_cls:
            raise ValueError(
                "vision_feature_select_strategy 'default' drops the CLS token, but a "
                f"{self.config.vision_config.model_type} has none and would lose a patch; set it to 'full'"
            )
        selected_depth(layer, self.config.vision_config.num_hidden_layers)
        layout = TileLayout.from_config(self.config)
        family = family_of(self.config)
        if not family.is_tiled and layout.merge_type != family.merge_type:
            raise ValueError(f"mm_patch_merge_type {layout.merge_type!r} needs tiles, and a {family.name} has none")
        if layout.pinpoints and strategy == "full" and has_cls:
            raise ValueError("vision_feature_select_strategy 'full' (cls_patch) does not go with tiles of LLaVA-NeXT")
        self.set_compression(self.compression)

    def get_vision_tower(self) -> VisionTowerView:
        """LLaVA's name for the vision tower."""
        return VisionTowerView(self.vision_tower, self.config)

    def read_tower(
        self, pixel_values: Tensor, bound: BoundCompressor | None, facts: TileFacts | None = None
    ) -> VisionFeatures:
        """The tower, and what a compressor needs of it.

        Args:
            pixel_values: (T, 3, height, width), on the tower's device and in its dtype.
            bound: The compressor with its budget; None for the plain rows.
            facts: Of the tiles; see `tile_facts`.
        """
        if bound is None:
            return self.read_features(pixel_values)
        features = self.read_features(pixel_values, bound.needs, bound.grid)
        return features if facts is None else replace(features, **facts)

    def read_features(
        self, pixel_values: Tensor, needs: Set[Need] = frozenset(), grid: tuple[int, int] | None = None
    ) -> VisionFeatures:
        """The tower up to the selected layer, and what a family adds to its rows.

        Args:
            pixel_values: As for `read_tower`.
            needs: As for `extract_features`.
            grid: As for `extract_features`.
        """
        return extract_features(self.vision_tower, pixel_values, self.config.vision_feature_layer, needs, grid)

    def seen_tiles(self, pixel_values: Tensor) -> Tensor:
        """The tiles that the tower sees of pixels, (T, 3, h, w): others than it is given where a family makes them.

        Args:
            pixel_values: (B, 3, height, width), as for `encode`.
        """
        return pixel_values

    def compress_features(self, features: VisionFeatures, bound: BoundCompressor) -> CompressedTokens:
        """The compressor, and before it the projector where the compressor stands behind it or reads its rows.

        Args:
            features: Of `read_tower`.
            bound: The compressor with its budget.

        Returns:
            K tokens a tile: (T, K, D) behind the projector, which is then done with, else (T, K, C).
        """
        return bound(self._as_compressed(features, bound))

    def _as_compressed(self, features: VisionFeatures, bound: BoundCompressor) -> VisionFeatures:
        """The features as the compressor takes them.

        They have the projector's rows where it reads or keeps these, and the CLS token where the budget or the family
        lets it have that.
        """
        if features.has_cls and not bound.keep_cls:
            features = replace(features, content=features.patches, has_cls=False)
        if "projected" not in bound.needs and bound.place != "projected":
            return features
        rows = self.multi_modal_projector(like_weights(features.patches, self.multi_modal_projector).contiguous())
        features = replace(features, projected=rows)
        return replace(features, content=rows, has_cls=False) if bound.place == "projected" else features

    def compress_tiles(
        self, pixel_values: Tensor, bound: BoundCompressor, facts: TileFacts | None = None
    ) -> CompressedTokens:
        """Tower and compressor, and between them the projector where the compressor stands behind it.

        Args:
            pixel_values: As for `read_tower`.
            bound: The compressor with its budget.
            facts: As for `read_tower`.
        """
        features = self.read_tower(pixel_values, bound, facts)
        return self.compress_features(features, bound)

    def selection(
        self,
        pixel_values: Tensor,
        counts: Sequence[int] | None,
        image_sizes: Sequence[tuple[int, int]] | None,
        questions: Sequence[str] | None,
    ) -> tuple[BoundCompressor, VisionFeatures]:
        """The compressor, and all that it is called with; arguments as for `encode_tiles`.

        Raises:
            ValueError: The model has no compression, or it reads questions that are not given.
        """
        bound = self.bound_compressor
        if bound is None:
            raise ValueError("the model has no compression; call set_compression('visionzip:54+10') or the like first")
        pixels = like_weights(pixel_values, self.vision_tower, cast=True)
        counts = self.tile_counts(counts, len(pixels))
        facts = self._facts(bound.needs, pixels, counts, image_sizes)
        features = self.with_questions(self.read_tower(pixels, bound, facts), bound, counts, questions)
        return bound, self._as_compressed(features, bound)

    def _facts(
        self,
        needs: Set[Need],
        pixels: Tensor,
        counts: Sequence[int] | None,
        image_sizes: Sequence[tuple[int, int]] | None,
    ) -> TileFacts:
        num_tiles = len(pixels) * self.picture.tiles
        return tile_facts(self.config, needs, num_tiles, counts, image_sizes, pixels.device)

    def embed_tiles(
        self, pixel_values: Tensor, bound: BoundCompressor | None, facts: TileFacts | None = None
    ) -> tuple[Tensor, Tensor | None, int]:
        """Tower, compressor (if any) and projector: one graph without a data-dependent shape.

        Args:
            pixel_values: As for `read_tower`.
            bound: The compressor with its budget; None for all tokens.
            facts: As for `read_tower`.

        Returns:
            Embeddings (T, K, D), positions (T, K) and `num_dominant`, as in `VisionTokens`.
        """
        if bound is None:
            tokens, positions, num_dominant = self._whole_tiles(self.read_tower(pixel_values, None)), None, 0
        else:
            kept = self.compress_tiles(pixel_values, bound, facts)
            tokens, positions, num_dominant = kept.tokens, kept.positions, kept.num_dominant
            if bound.gives_projected:
                return tokens, positions, num_dominant
        return self.multi_modal_projector(tokens.contiguous()), positions, num_dominant

    def _whole_tiles(self, features: VisionFeatures) -> Tensor:
        """(T, N, C): all rows that are used without compression."""
        return features.content if self.config.vision_feature_select_strategy == "full" else features.patches

    def encode(
        self,
        pixel_values: Tensor,
        counts: Sequence[int] | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> VisionTokens:
        """All of an image that tuning the projector does not change, and no question: tower and compressor (if any).

        A frozen tower keeps nothing for a backward pass, though gradient checkpointing marks its input.

        Args:
            pixel_values: (T, 3, height, width), the tiles of all images, any float dtype.
            counts: Tiles of each image; None if each is a single tile, and nothing is to follow it.
            image_sizes: (w, h) of each image, before padding; without, no patch counts as padding.
        """
        parts = self.vision_parts.values()
        learns = pixel_values.requires_grad or any(p.requires_grad for part in parts for p in part.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            pixels, bound = like_weights(pixel_values, self.vision_tower, cast=True), self.bound_compressor
            counts = self.tile_counts(counts, len(pixels))
            if bound is None:
                return VisionTokens(self._whole_tiles(self.read_tower(pixels, None)), counts)
            facts = self._facts(bound.needs, pixels, counts, image_sizes)
            features = self.read_tower(pixels, bound, facts)
            if bound.is_late:
                return VisionTokens(features.patches, counts, features=features)
            return self._compress(features, bound, counts, image_sizes)

    def _compress(
        self,
        features: VisionFeatures,
        bound: BoundCompressor,
        counts: Sequence[int] | None,
        image_sizes: Sequence[tuple[int, int]] | None,
    ) -> VisionTokens:
        """What is kept of tiles, each with its share of its image's total."""
        if bound.budget.adaptive is not None or (bound.is_uneven and counts is not None):
            uneven = compress_adaptively(bound, self._as_compressed(features, bound), counts)
        elif bound.budget.tiles == "equal" or counts is None:
            kept = self.compress_features(features, bound)
            sizes = kept.sizes if bound.budget.restores else None
            return VisionTokens(kept.tokens, counts, kept.positions, kept.num_dominant, sizes=sizes)
        else:
            layout = TileLayout.from_config(self.config)
            bounds = shared_bounds(bound, self.tile_shape, layout, counts, image_sizes)
            uneven = compress_unevenly(self.compress_features, features, bounds)
        return VisionTokens(uneven.tokens, counts, uneven.positions, splits=uneven.splits)

    def project(
        self,
        encoded: VisionTokens,
        image_sizes: Sequence[tuple[int, int]] | None,
        questions: Sequence[str] | None = None,
    ) -> list[Tensor]:
        """Projector, then the tiles of each image in sequence.

        Args:
            encoded: Of `encode`, or read from where it was kept.
            image_sizes: (w, h) of each image before padding; needed where an image has several tiles.
            questions: What is asked about each image; needed where the compressor chooses by it.

        Returns:
            For each image (its tokens, D), ready to stand in for its placeholder.

        Raises:
            ValueError: Images, sizes and questions differ in number, or a size does not fit its tiles.
        """
        return self.project_under(self.bound_compressor, encoded, image_sizes, questions)

    def project_under(
        self,
        bound: BoundCompressor | None,
        encoded: VisionTokens,
        image_sizes: Sequence[tuple[int, int]] | None,
        questions: Sequence[str] | None = None,
    ) -> list[Tensor]:
        """`project` under a compressor that need not be the model's own; None where all that is left is to project."""
        if encoded.features is not None and bound is not None:
            features = self.with_questions(encoded.features, bound, encoded.counts, questions)
            encoded = self._compress(features, bound, encoded.counts, image_sizes)
            if bound.gives_projected:
                return self._in_sequence(encoded, image_sizes)
        # Contiguous, for a view takes another kernel: in bf16 kept tokens would give another loss than fresh ones.
        embeds = self.multi_modal_projector(like_weights(encoded.tokens, self.multi_modal_projector).contiguous())
        return self._in_sequence(replace(encoded, tokens=embeds), image_sizes)

    def _in_sequence(self, projected: VisionTokens, image_sizes: Sequence[tuple[int, int]] | None) -> list[Tensor]:
        """The projected tiles (T, K, D) of each image as (its tokens, D)."""
        embeds = projected.tokens
        if image_sizes is not None and len(image_sizes) != len(projected):
            raise ValueError(f"{len(projected)} images came with {len(image_sizes)} image_sizes")
        if projected.sizes is not None and projected.positions is not None:
            known = projected.positions, projected.sizes
            return placed_images(embeds, *known, num_rows=self.num_patches, counts=projected.counts)
        if projected.counts is None:
            if projected.splits is None:
                return list(embeds)
            return [rows[: sum(split)] for rows, split in zip(embeds, projected.splits, strict=True)]
        counts = list(projected.counts)
        layout = TileLayout.from_config(self.config)
        newline = own_parameter(cast(nn.Module, self), "image_newline")
        sizes: Sequence[tuple[int, int] | None] = image_sizes or [None] * len(counts)
        per_image = embeds.split(counts)
        if projected.positions is None:
            return [layout.pack(image, size, newline) for image, size in zip(per_image, sizes, strict=True)]
        positions = projected.positions.to(device=embeds.device, dtype=torch.int64).split(counts)
        if projected.splits is not None:
            splits = iter(projected.splits)
            own = [[next(splits) for _ in range(count)] for count in counts]
            parts = zip(per_image, positions, own, sizes, strict=True)
            return [layout.pack_uneven(*part, newline) for part in parts]
        return [
            layout.pack_compressed(image, where, projected.num_dominant, size, newline)
            for image, where, size in zip(per_image, positions, sizes, strict=True)
        ]

    def encode_tiles(
        self,
        pixel_values: Tensor,
        counts: Sequence[int] | None,
        image_sizes: Sequence[tuple[int, int]] | None,
        questions: Sequence[str] | None = None,
    ) -> list[Tensor]:
        """From pixels to (its tokens, D) of each image: `encode`, then `project`, or both by one compiled graph.

        Args:
            pixel_values: As for `encode`.
            counts: As for `encode`.
            image_sizes: As for `project`.
            questions: As for `project`; with them there is no compiled graph.
        """
        if self.compiled_vision is None or torch.is_grad_enabled() or not self._has_one_graph:
            return self.project(self.encode(pixel_values, counts, image_sizes), image_sizes, questions)
        pixels, bound = like_weights(pixel_values, self.vision_tower, cast=True), self.bound_compressor
        counts = self.tile_counts(counts, len(pixels))
        facts = self._facts(frozenset() if bound is None else bound.needs, pixels, counts, image_sizes)
        embeds, positions, num_dominant = self.compiled_vision(self, pixels, bound, facts)
        return self._in_sequence(VisionTokens(embeds, counts, positions, num_dominant), image_sizes)
