"""Transformers' ways into a model: pixels in, features scattered among the embeddings, the language model behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaModelOutputWithPast

from llava.kinds.families import clip_rules, family_of
from llava.model.anyres import TileLayout, size_pairs
from llava.model.language_pruning import BoundPruner, ImageRows, PrunedCache
from llava.model.language_pruning.pruned_model import read_answer, read_prompts
from llava.model.language_pruning.refusals import PruningError, check_unfilled
from llava.model.placeholders import ExpandedSequence
from llava.model.projector_types import other_projector
from llava.model.restore import PlacedRows, RestoredCache
from llava.model.restore.placed_tokens import placed
from llava.model.restore.reading import read_restored, read_restored_answer
from llava.model.restore.refusals import RestoreError
from llava.model.stages import inside_language_model, pruner_of
from llava.model.vision_seam import VisionSeam
from llava.model.vocabulary import check_ids


class MultimodalForward(VisionSeam):
    """What transformers calls of a `LlavaModel`, on top of the seam."""

    def __init__(self, config: Any) -> None:
        """Makes transformers' model, with another projector where the config names one."""
        super().__init__(config)  # type: ignore[call-arg]
        projector = other_projector(config)
        if projector is not None:
            self.multi_modal_projector = projector

    @property
    def bound_pruner(self) -> BoundPruner | None:
        """The method inside the language model, with its budget; None without one."""
        inside = inside_language_model(self.compression)
        return None if inside is None else pruner_of(inside).bind(inside, self.config.text_config.num_hidden_layers)

    @property
    def restores(self) -> bool:
        """Whether the language model is told where tokens of images were, and how many patches each holds."""
        budget = self.compression
        return budget is not None and budget.restores

    @property
    def reads_by_layer(self) -> bool:
        """Whether prompts with images are read layer by layer, each prompt as a whole."""
        return self.bound_pruner is not None or self.restores

    def pruning_inputs(self, sequence: ExpandedSequence) -> dict[str, ImageRows | PlacedRows]:
        """What `forward` is told beside the embeddings of prompts: where images stand, if that is asked for inside.

        Args:
            sequence: Of the prompts; not packed.
        """
        if not sequence.image_lengths:
            return {}
        if sequence.placed:
            known = sequence.attention_mask, sequence.placed, sequence.labels
            return {"image_rows": PlacedRows.locate(sequence.image_rows, *known)}
        if self.bound_pruner is None:
            return {}
        rows = ImageRows.locate(sequence.image_rows, sequence.attention_mask, sequence.image_lengths)
        return {"image_rows": rows} if any(rows.counts) else {}  # a prompt that is cut may have lost its images

    def rows_per_layer(self, image_rows: int) -> list[int]:
        """Rows of an image that each layer of the language model reads, and keeps in its cache.

        Args:
            image_rows: What reaches the language model of the image.
        """
        bound, layers = self.bound_pruner, self.config.text_config.num_hidden_layers
        return [image_rows] * layers if bound is None else bound.schedule(image_rows).rows_per_layer

    def mean_visual_tokens(self, image_rows: Sequence[int]) -> float:
        """Visual tokens that a layer of the language model reads on average.

        Args:
            image_rows: What reaches the language model of each image of a prompt.
        """
        if self.bound_pruner is None:
            return sum(image_rows)
        return sum(fmean(self.rows_per_layer(rows)) for rows in image_rows)

    def check_unpruned(self, what: str) -> None:
        """Refuses what does not go with a method inside the language model.

        Args:
            what: Is asked for, and what to do instead.

        Raises:
            PruningError: There is such a method.
        """
        bound = self.bound_pruner
        if bound is not None:
            raise PruningError(bound.pruner.name, what)

    def check_counted(self, what: str) -> None:
        """Refuses what does not go with `positions=restore`.

        Args:
            what: As for `check_unpruned`.

        Raises:
            RestoreError: The model has it.
        """
        if self.restores:
            raise RestoreError(what)

    def get_image_features(
        self,
        pixel_values: Tensor,
        image_sizes: Tensor | None = None,
        batch_num_images: Sequence[int] | Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Transformers' way in: the features of each image as a list in `pooler_output`.

        Args:
            pixel_values: (B, 3, height, width), or for NeXT (B, T, 3, height, width) padded to the largest T.
            image_sizes: (B, 2), (h, w) as transformers has it; needed for NeXT.
            batch_num_images: Images of each prompt that has any: a family may cut none of several into tiles. By
                default each image stands in a prompt of its own.
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
        counts = [layout.num_tiles(size) for size in sizes]
        if batch_num_images is not None and not family_of(self.config).tiles_several:
            given = [int(count) for count in batch_num_images]
            if sum(given) != len(sizes):
                raise ValueError(f"batch_num_images {given} add up to {sum(given)}, but there are {len(sizes)} images")
            is_alone = [count == 1 for count in given for _ in range(count)]
            counts = [count if alone else 1 for count, alone in zip(counts, is_alone, strict=True)]
        tiles = [image[:count] for image, count in zip(pixel_values, counts, strict=True)]
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

    def embed_with_pixels(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        image_sizes: Tensor | None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        batch_num_images: Sequence[int] | Tensor | None = None,
    ) -> dict[str, Any]:
        """Embeds ids and the images in them, all in transformers' convention; arguments as for `forward`.

        Returns:
            `inputs_embeds` (B, L, D) for `forward`, and `image_rows` where a method inside the language model is on.
        """
        features = self.get_image_features(pixel_values, image_sizes, batch_num_images).pooler_output
        embedded: dict[str, Any] = {"inputs_embeds": self._embed_expanded(input_ids, features)}
        if self.reads_by_layer:
            embedded["image_rows"] = self.locate_images(input_ids, features, attention_mask, labels)
        return embedded

    def locate_images(
        self,
        input_ids: Tensor,
        images: Sequence[Tensor],
        attention_mask: Tensor | None,
        labels: Tensor | None = None,
    ) -> ImageRows | PlacedRows:
        """Where images stand in ids (B, L) that hold an image token for every feature.

        Args:
            input_ids: (B, L).
            images: Features of each.
            attention_mask: (B, L), 0 where padded; None for no padding.
            labels: (B, L), of given answers.
        """
        is_image = input_ids == self.config.image_token_id
        rows = torch.where(is_image, is_image.flatten().cumsum(0).view_as(is_image) - 1, -1)
        if self.restores:
            return PlacedRows.locate(rows, attention_mask, placed(images), labels)
        return ImageRows.locate(rows, attention_mask, [len(image) for image in images])

    def _run_language_model(
        self, inputs_embeds: Any, images: ImageRows | PlacedRows | None, kwargs: dict[str, Any]
    ) -> Any:
        """The language model, with the method inside it for prompts that hold images and for their answers."""
        cache = kwargs.get("past_key_values")
        if isinstance(cache, PrunedCache):
            return read_answer(self.language_model, inputs_embeds, **kwargs)
        if isinstance(cache, RestoredCache):
            return read_restored_answer(self.language_model, inputs_embeds, **kwargs)
        if isinstance(images, PlacedRows):
            return read_restored(self.language_model, inputs_embeds, images, **kwargs)
        bound = None if images is None else self.bound_pruner  # not read at a step of an answer: that is one graph
        if bound is None or images is None:
            check_unfilled("the method of this cache", cache)
            return self.language_model(inputs_embeds=inputs_embeds, **kwargs)
        return read_prompts(self.language_model, bound, inputs_embeds, images, **kwargs)

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
        budget = self.compression
        if budget is not None and budget.adaptive is not None:
            raise ValueError(
                f"the ids hold {sum(tokens)} image tokens, but the images have {sum(features)} features, as many as "
                f"their pictures ask for under {budget}: pass images= with one placeholder an image, or take the "
                "counts from the features of model.encode_images(...)"
            )
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
        image_rows: ImageRows | PlacedRows | None = None,
        batch_num_images: Sequence[int] | Tensor | None = None,
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
            image_rows: With `inputs_embeds`, where the images stand in them; see `pruning_inputs`.
            batch_num_images: See `get_image_features`.
            **kwargs: For the language model.

        Raises:
            ValueError: Ids and embeddings are both or neither given, or tokens and features differ in number.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds must be given")
        if kwargs.pop("pixel_values_videos", None) is not None:
            clip_rules(self.config)  # says which families see videos
        features: Sequence[Tensor] | None = None
        if mm_encoder_outputs and mm_encoder_outputs.get("image") is not None:
            features = mm_encoder_outputs["image"].pooler_output
        elif pixel_values is not None and len(pixel_values):
            features = self.get_image_features(
                pixel_values,
                image_sizes,
                batch_num_images,
                vision_feature_layer=vision_feature_layer,
                vision_feature_select_strategy=vision_feature_select_strategy,
            ).pooler_output
        if input_ids is not None:
            if features is not None and self.reads_by_layer:
                image_rows = self.locate_images(input_ids, features, kwargs.get("attention_mask"))
            inputs_embeds = self._embed_expanded(input_ids, features)
        elif features is not None:
            raise ValueError("pixel_values need input_ids, which say where the image stands; got inputs_embeds")
        outputs = self._run_language_model(inputs_embeds, image_rows, kwargs)
        return LlavaModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=None if features is None else torch.cat(list(features)),
        )
