"""The one seam that is overridden in transformers' models: pixels -> tower -> compressor -> projector -> sequence.

Shapes: T tiles, P patches a tile, K kept tokens a tile, C channels of the tower, D channels of the language model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaModelOutputWithPast

from llava.kinds.families import family_of
from llava.model.anyres import TileLayout, size_pairs
from llava.model.compiled_vision import CompiledVision, check_compilable
from llava.model.configuration import CompressionConfig, CompressionLike, as_compression
from llava.model.multimodal_compressor import BoundCompressor, CompressedTokens, TileShape, compressor_of, with_plugin
from llava.model.multimodal_encoder import extract_features, selected_depth, tile_shape
from llava.model.multimodal_encoder.tower import VisionTowerView
from llava.model.offloading import like_weights, own_parameter
from llava.model.vision_tokens import VisionTokens
from llava.model.vocabulary import check_ids


class VisionSeam:
    """Mixed into transformers' `LlavaModel` and `LlavaNextModel`, the models without a language-modelling head."""

    config: Any
    vision_tower: nn.Module
    multi_modal_projector: nn.Module
    language_model: Any
    image_newline: Tensor
    compiled_vision: CompiledVision | None = None

    @property
    def compression(self) -> CompressionConfig | None:
        """The compression in `config.compression`, None without one."""
        return as_compression(getattr(self.config, "compression", None))

    def set_compression(self, compression: CompressionLike) -> None:
        """Changes the compression, or switches it off with None. Nothing is reloaded.

        Raises:
            ValueError: The method is unknown, or the budget does not fit the tower.
        """
        budget = as_compression(compression)
        if budget is not None:
            compressor_of(budget).check(budget, self.tile_shape)
            budget = with_plugin(budget)
        self.config.compression = None if budget is None else budget.to_dict()

    @property
    def bound_compressor(self) -> BoundCompressor | None:
        """The compressor in use, with its budget; None without one."""
        budget = self.compression
        return None if budget is None else compressor_of(budget).bind(budget)

    def compile_vision(self, backend: str = "inductor") -> None:
        """Encodes images by compiled graphs from now on, wherever no gradient is asked for.

        Args:
            backend: For `torch.compile`.

        Raises:
            ValueError: The tower or the projector is not whole on one device.
        """
        check_compilable(self)
        self.compiled_vision = CompiledVision(backend)

    @property
    def num_patches(self) -> int:
        """Patches of a tile."""
        return self.tile_shape.num_patches

    @property
    def tile_shape(self) -> TileShape:
        """The shape of a tile, known before it is encoded."""
        return tile_shape(self.config.vision_config)

    @property
    def tokens_per_tile(self) -> int:
        """Tokens that the tower, or the compressor behind it, gives for a tile."""
        budget = self.compression
        if budget is not None:
            return budget.num_tokens
        is_full = self.config.vision_feature_select_strategy == "full"
        return self.num_patches + int(is_full and self.tile_shape.has_cls)

    def check_vision_config(self) -> None:
        """Refuses a config that the seam would misread.

        Raises:
            ValueError: A field has a value that is not supported; the message names it.
        """
        has_cls = self.tile_shape.has_cls
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

    def compress_tiles(self, pixel_values: Tensor, bound: BoundCompressor) -> CompressedTokens:
        """Tower and compressor: one graph without a data-dependent shape.

        Args:
            pixel_values: (T, 3, height, width), on the tower's device and in its dtype.
            bound: The compressor with the budget of one tile.

        Returns:
            K tokens of C channels for each tile.
        """
        layer, needs = self.config.vision_feature_layer, bound.compressor.needs
        return bound(extract_features(self.vision_tower, pixel_values, layer, needs))

    def select_tokens(self, pixel_values: Tensor, bound: BoundCompressor | None) -> tuple[Tensor, Tensor | None, int]:
        """Tower and compressor (if any), without a data-dependent shape.

        Args:
            pixel_values: (T, 3, height, width), on the tower's device and in its dtype.
            bound: The compressor with its budget; None for all tokens.

        Returns:
            Tokens (T, K, C), positions (T, K) and `num_dominant`, as in `VisionTokens`.
        """
        if bound is not None:
            kept = self.compress_tiles(pixel_values, bound)
            return kept.tokens, kept.positions, kept.num_dominant
        features = extract_features(self.vision_tower, pixel_values, self.config.vision_feature_layer)
        is_full = self.config.vision_feature_select_strategy == "full"
        return features.hidden_states if is_full else features.patches, None, 0

    def encode(self, pixel_values: Tensor, counts: Sequence[int] | None = None) -> VisionTokens:
        """Tower and compressor (if any): all of an image that tuning the projector does not change.

        A frozen tower keeps nothing for a backward pass, though gradient checkpointing marks its input.

        Args:
            pixel_values: (T, 3, height, width), the tiles of all images, any float dtype.
            counts: Tiles of each image; None if each is a single tile, and nothing is to follow it.
        """
        learns = pixel_values.requires_grad or any(p.requires_grad for p in self.vision_tower.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            pixels = like_weights(pixel_values, self.vision_tower, cast=True)
            tokens, positions, num_dominant = self.select_tokens(pixels, self.bound_compressor)
        return VisionTokens(tokens, counts, positions, num_dominant)

    def project(self, encoded: VisionTokens, image_sizes: Sequence[tuple[int, int]] | None) -> list[Tensor]:
        """Projector, then the tiles of each image in sequence.

        Args:
            encoded: Of `encode`, or read from where it was kept.
            image_sizes: (w, h) of each image before padding; needed where an image has several tiles.

        Returns:
            For each image (its tokens, D), ready to stand in for its placeholder.

        Raises:
            ValueError: Images and sizes differ in number, or a size does not fit its tiles.
        """
        # Contiguous, for a view takes another kernel: in bf16 kept tokens would give another loss than fresh ones.
        embeds = self.multi_modal_projector(like_weights(encoded.tokens, self.multi_modal_projector).contiguous())
        return self._in_sequence(replace(encoded, tokens=embeds), image_sizes)

    def _in_sequence(self, projected: VisionTokens, image_sizes: Sequence[tuple[int, int]] | None) -> list[Tensor]:
        """The projected tiles (T, K, D) of each image as (its tokens, D)."""
        embeds = projected.tokens
        if image_sizes is not None and len(image_sizes) != len(projected):
            raise ValueError(f"{len(projected)} images came with {len(image_sizes)} image_sizes")
        if projected.counts is None:
            return list(embeds)
        counts = list(projected.counts)
        layout = TileLayout.from_config(self.config)
        newline = own_parameter(cast(nn.Module, self), "image_newline")
        sizes: Sequence[tuple[int, int] | None] = image_sizes or [None] * len(counts)
        per_image = embeds.split(counts)
        if projected.positions is None:
            return [layout.pack(image, size, newline) for image, size in zip(per_image, sizes, strict=True)]
        positions = projected.positions.to(device=embeds.device, dtype=torch.int64).split(counts)
        return [
            layout.pack_compressed(image, where, projected.num_dominant, size, newline)
            for image, where, size in zip(per_image, positions, sizes, strict=True)
        ]

    def encode_tiles(
        self, pixel_values: Tensor, counts: Sequence[int] | None, image_sizes: Sequence[tuple[int, int]] | None
    ) -> list[Tensor]:
        """From pixels to (its tokens, D) of each image: `encode`, then `project`, or both by one compiled graph.

        Args:
            pixel_values: As for `encode`.
            counts: As for `encode`.
            image_sizes: As for `project`.
        """
        if self.compiled_vision is None or torch.is_grad_enabled():
            return self.project(self.encode(pixel_values, counts), image_sizes)
        pixels = like_weights(pixel_values, self.vision_tower, cast=True)
        embeds, positions, num_dominant = self.compiled_vision(cast(nn.Module, self), pixels, self.bound_compressor)
        return self._in_sequence(VisionTokens(embeds, counts, positions, num_dominant), image_sizes)

    def get_image_features(
        self, pixel_values: Tensor, image_sizes: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Transformers' way in: the features of each image as a list in `pooler_output`.

        Args:
            pixel_values: (B, 3, height, width), or for NeXT (B, T, 3, height, width) padded to the largest T.
            image_sizes: (B, 2), (h, w) as transformers has it; needed for NeXT.
            **kwargs: `vision_feature_layer` and `vision_feature_select_strategy` must be those of the config.

        Raises:
            ValueError: A keyword asks for something else than the config.
        """
        for name in ("vision_feature_layer", "vision_feature_select_strategy"):
            asked = kwargs.get(name)
            if asked is not None and asked != getattr(self.config, name):
                raise ValueError(
                    f"{name}={asked!r} differs from the config's {getattr(self.config, name)!r}; set it there"
                )
        if pixel_values.dim() == 4:
            return BaseModelOutputWithPooling(pooler_output=self.encode_tiles(pixel_values, None, None))
        sizes = size_pairs(image_sizes, height_first=True)
        if sizes is None:
            raise ValueError("image_sizes, the (h, w) of each image, must come with 5-D pixel_values")
        if len(sizes) != len(pixel_values):
            raise ValueError(f"pixel_values hold {len(pixel_values)} images, but image_sizes {len(sizes)}")
        layout = TileLayout.from_config(self.config)
        tiles = [image[: layout.num_tiles(size)] for image, size in zip(pixel_values, sizes, strict=True)]
        counts = [len(image) for image in tiles]
        return BaseModelOutputWithPooling(pooler_output=self.encode_tiles(torch.cat(tiles), counts, sizes))

    def embed(self, input_ids: Tensor, is_image: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Token embeddings with the image features in their places.

        Args:
            input_ids: (B, L). An id at an image row need not be in the vocabulary.
            is_image: (B, L), bool.
            features: Per image (its tokens, D), in the order of the rows, one for each.

        Returns:
            (B, L, D).

        Raises:
            ValueError: An id has no embedding; on an accelerator it is not looked at.
        """
        input_ids = input_ids.masked_fill(is_image, 0)
        check_ids(input_ids, self.config.text_config.vocab_size)
        embeds = self.language_model.get_input_embeddings()(input_ids)
        if not features:
            return embeds
        rows = torch.cat(list(features)).to(embeds)
        return embeds.masked_scatter(is_image.unsqueeze(-1), rows)

    def _embed_expanded(self, input_ids: Tensor, features: Sequence[Tensor] | None) -> Tensor:
        """Embeddings (B, L, D) of ids that hold an image token for every feature; without features, of plain ids.

        Raises:
            ValueError: Tokens and features differ in number, or there are no features for tokens that need them.
        """
        is_image = input_ids == self.config.image_token_id
        if features is None:
            in_vocabulary = self.config.image_token_id < self.config.text_config.vocab_size
            if not in_vocabulary and input_ids.shape[1] > 1 and bool(is_image.any()):
                raise ValueError("the ids hold image tokens, but neither pixel_values nor images were given")
            return self.language_model.get_input_embeddings()(input_ids)
        self._check_counts(is_image.sum(dim=1).tolist(), [len(image) for image in features])
        return self.embed(input_ids, is_image, features)

    def embed_with_pixels(self, input_ids: Tensor, pixel_values: Tensor, image_sizes: Tensor | None) -> Tensor:
        """Embeddings (B, L, D) of ids and the images in them, all in transformers' convention; see `forward`."""
        return self._embed_expanded(input_ids, self.get_image_features(pixel_values, image_sizes).pooler_output)

    def _check_counts(self, tokens: list[int], features: list[int]) -> None:
        """Refuses ids that do not fit their images, in all or in any sample: a right sum may hide two wrong parts.

        Args:
            tokens: Image tokens of each sample.
            features: Features of each image, sample by sample.
        """
        wrong = None
        images = iter(features)
        for sample, count in enumerate(tokens):
            while count > 0:
                count -= next(images, count + 1)
            if count and wrong is None:
                wrong = sample
        if wrong is None and next(images, None) is None:
            return
        where = "" if wrong is None or len(tokens) == 1 else f" (sample {wrong} is the first that does not fit)"
        raise ValueError(
            f"the ids hold {sum(tokens)} image tokens, but the images have {sum(features)} features{where}. The "
            f"model's compression is {self.compression or 'none'}, and an image needs as many tokens as that leaves: "
            "if a processor made the ids, say processor.set_compression(model.compression); else take the counts from "
            "model.num_visual_tokens(image_sizes), or pass images= with one placeholder an image, as generate with "
            "prompt_lookup_num_tokens needs it: its guesses repeat the prompt, image tokens included"
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        vision_feature_layer: int | None = None,
        vision_feature_select_strategy: str | None = None,
        mm_encoder_outputs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> LlavaModelOutputWithPast:
        """Transformers' calling convention: expanded ids and pixels, or embeddings.

        Args:
            input_ids: (B, L), with as many image tokens as an image has features.
            pixel_values: See `get_image_features`.
            image_sizes: See `get_image_features`.
            inputs_embeds: (B, L, D), in place of `input_ids`.
            vision_feature_layer: Must be the config's.
            vision_feature_select_strategy: Must be the config's.
            mm_encoder_outputs: `{"image": output of get_image_features}`, in place of the pixels.
            **kwargs: For the language model.

        Raises:
            ValueError: Ids and embeddings are both or neither given, or tokens and features differ in number.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds must be given")
        features: Sequence[Tensor] | None = None
        if mm_encoder_outputs and mm_encoder_outputs.get("image") is not None:
            features = mm_encoder_outputs["image"].pooler_output
        elif pixel_values is not None and len(pixel_values):
            features = self.get_image_features(
                pixel_values,
                image_sizes,
                vision_feature_layer=vision_feature_layer,
                vision_feature_select_strategy=vision_feature_select_strategy,
            ).pooler_output
        if input_ids is not None:
            inputs_embeds = self._embed_expanded(input_ids, features)
        elif features is not None:
            raise ValueError("pixel_values need input_ids, which say where the image stands; got inputs_embeds")
        outputs = self.language_model(inputs_embeds=inputs_embeds, **kwargs)
        return LlavaModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=None if features is None else torch.cat(list(features)),
        )
