"""LLaVA's calling convention on top of transformers' models: `-200` in the ids, `images=`, new ids from `generate`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.anyres import size_pairs
from llava.model.clips import placeholders_of, with_modalities
from llava.model.image_encoding import ImageEncoding, Images, ImageSizes
from llava.model.language_pruning import ImageRows
from llava.model.language_pruning.refusals import check_generation
from llava.model.llava_internals import LlavaInternals
from llava.model.multimodal_encoder.tower import VisionTowerView
from llava.model.packing import PackingLayout, packing_layout, varlen_arguments
from llava.model.placeholders import (
    ExpandedSequence,
    PaddingSide,
    expand_placeholders,
    has_placeholders,
    is_decoding_step,
    match_images_to_placeholders,
)
from llava.model.restore import PlacedRows
from llava.model.restore.placed_tokens import placed
from llava.model.restore.refusals import check_generation as check_restored_generation
from llava.model.target_loss import TargetOutput, Teaching, distilled_loss, logits_at_targets, loss_at_targets
from llava.model.vision_tokens import VisionTokens
from llava.model.vocabulary import GrowingVocabulary, check_ids

logger = logging.getLogger(__name__)


def _given(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


class _NotGiven:
    """Tells `images=None` (LLaVA's convention, no image) from no `images` at all (transformers' convention)."""


_NOT_GIVEN = _NotGiven()


class LlavaMetaForCausalLM(ImageEncoding, LlavaInternals, GrowingVocabulary):
    """LLaVA's calling convention: `-200` in the ids, `images=`, and new ids only from `generate`.

    Attributes:
        image_processor: The processor that the checkpoint came with; `load_pretrained_model` sets it.
        tokenizer_folder: Where the tokenizer of the checkpoint lies; None for a model that was not loaded.
        processor_folder: Where the config of its image processor lies.
    """

    config: Any
    model: Any
    lm_head: nn.Module
    image_processor: Any = None
    tokenizer_folder: Path | None = None
    processor_folder: Path | None = None
    _told_of_cut = False

    def embed_prompts(
        self,
        input_ids: Tensor,
        images: Images | None = None,
        image_sizes: ImageSizes | None = None,
        image_features: Sequence[Tensor] | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        padding_side: PaddingSide | None = None,
        packing: bool = False,
        questions: Sequence[str] | None = None,
    ) -> tuple[Tensor, ExpandedSequence]:
        """Encodes what is not encoded yet and opens the placeholders; arguments as for `forward`.

        Returns:
            Embeddings (B, L, D), and the sequence that they are of.
        """
        if image_features is None:
            places = placeholders_of(images, self.config)
            used = match_images_to_placeholders(input_ids, attention_mask, places)
            if used is not None and images is not None and sum(places) == len(images):
                images = images[used] if isinstance(images, Tensor) else [images[index] for index in used]
                image_sizes = None if image_sizes is None else [image_sizes[index] for index in used]
            image_features = (
                [] if images is None or not len(images) else self.encode_each(images, image_sizes, questions)
            )
        sequence = expand_placeholders(
            input_ids,
            [len(image) for image in image_features],
            attention_mask,
            labels,
            padding_side=padding_side,
            max_length=getattr(self.config, "tokenizer_model_max_length", None),
            packing=self._packing_layout if packing else None,
        )
        if sequence.lost_tokens and not self._told_of_cut:
            self._told_of_cut = True
            logger.warning(
                "a prompt was cut to the %d tokens of tokenizer_model_max_length, as LLaVA does, and its last %d "
                "tokens are not seen; this is told once a model",
                self.config.tokenizer_model_max_length,
                sequence.lost_tokens,
            )
        if self.model.restores:
            sequence = replace(sequence, placed=placed(image_features))
        is_image = sequence.image_rows >= 0
        if image_features:
            # By index, since a cut sample leaves some of its image's rows out.
            image_features = [torch.cat(list(image_features))[sequence.image_rows[is_image]]]
        return self.model.embed(sequence.input_ids, is_image, image_features), sequence

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        images: Images | None = None,
        image_sizes: ImageSizes | None = None,
        image_features: Sequence[Tensor] | None = None,
        vision_tokens: VisionTokens | None = None,
        pixel_values: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        packing: bool = False,
        loss_only: bool = False,
        image_rows: ImageRows | PlacedRows | None = None,
        num_items_in_batch: Tensor | int | None = None,
        teaching: Teaching | None = None,
        target_logits: bool = False,
        batch_num_images: Sequence[int] | Tensor | None = None,
        modalities: Sequence[str] | None = None,
        pixel_values_videos: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Runs the model in LLaVA's convention, or in transformers' when `pixel_values` are given.

        Args:
            input_ids: (B, T) with one `-200` an image; or (B, L) with an image token for every feature.
            attention_mask: (B, T) or (B, L), 0 where padded, on either side.
            position_ids: (B, L); by default counted from each sample's first token.
            past_key_values: Cache.
            inputs_embeds: (B, L, D), in place of the ids.
            labels: (B, T), `-100` where there is no target; opened like the ids.
            images: See `encode_images`, in the order of the placeholders. One dummy image for each text-only
                sample, as LLaVA's collator makes, may be among them.
            image_sizes: With `images`, (w, h) of each; with `pixel_values`, (h, w) as transformers has it.
            image_features: Output of `encode_images`, in place of `images`.
            vision_tokens: What tower and compressor made of the images, in place of `images`; with `image_sizes`.
            pixel_values: transformers' way to give images; the ids then hold an image token for every feature.
            logits_to_keep: Compute only the last so many logits; 0 for all.
            packing: Lay the samples end to end instead of padding them; the same loss for less work.
            loss_only: Compute logits at the targets only, and return nothing but the loss.
            image_rows: With `inputs_embeds`, where images stand in them; `generate` gives it.
            num_items_in_batch: What the summed loss is divided by; by default the batch's own targets.
            teaching: With `loss_only`, what a teacher predicts for the targets; the loss is then that of both.
            target_logits: Return nothing but the logits at targets, in the order of the ids: a `TargetOutput`.
            batch_num_images: With `pixel_values`, the images of each prompt that has any; see `get_image_features`.
            modalities: With `images`, `image` or `video` for each, as LLaVA-NeXT has it.
            pixel_values_videos: transformers' way to give videos, (videos, T, 3, H, W); see `ClipForward`.
            **kwargs: For transformers' forward.

        Returns:
            transformers' output; logits (B, L, vocabulary) over the expanded sequence, which packing lays out anew,
            and with labels the loss.

        Raises:
            ValueError: Placeholders and images differ in number.
        """
        images = with_modalities(images, modalities)
        if is_decoding_step(input_ids, images is not None or image_features is not None):
            images = image_features = None  # LLaVA's own loops pass the images along
        if labels is not None or packing:
            self.model.check_unpruned("rows of the prompt have no logits; switch it off to compute a loss")
        if packing:
            self.model.check_counted("samples that are laid end to end have one mask; leave packing out")
        if isinstance(logits_to_keep, Tensor):
            self.model.check_unpruned("rows change their places; give logits_to_keep as a number, of the last rows")
        if vision_tokens is not None:
            image_features = self.model.project(vision_tokens, size_pairs(image_sizes, height_first=False))
        sources = None
        if images is None and image_features is None and not packing and not has_placeholders(input_ids):
            kwargs |= {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
            kwargs |= {"pixel_values": pixel_values, "image_sizes": image_sizes, "position_ids": position_ids}
            more = {"batch_num_images": batch_num_images, "pixel_values_videos": pixel_values_videos}
            kwargs |= _given(image_rows=image_rows, **more)
            if labels is not None and pixel_values is not None and input_ids is not None and self.model.restores:
                kwargs |= self.model.embed_with_pixels(input_ids, pixel_values, image_sizes, attention_mask, labels)
                kwargs |= {"input_ids": None, "pixel_values": None}
        else:
            input_ids = self._check_convention(input_ids, pixel_values, past_key_values)
            embeds, sequence = self.embed_prompts(
                input_ids, images, image_sizes, image_features, attention_mask, labels, packing=packing
            )
            labels, sources = sequence.labels, sequence.sources
            kwargs |= self.model.pruning_inputs(sequence)
            kwargs |= self._embedded_inputs(embeds, sequence, position_ids, packing)
        if loss_only or target_logits:
            return self._at_targets(kwargs, labels, sources, teaching, num_items_in_batch, target_logits)
        kwargs |= _given(num_items_in_batch=num_items_in_batch)
        return super().forward(  # type: ignore[misc]
            past_key_values=past_key_values, labels=labels, logits_to_keep=logits_to_keep, **kwargs
        )

    def _at_targets(
        self, inputs: Any, labels: Any, sources: Any, teaching: Teaching | None, num_items: Any, logits: bool
    ) -> Any:
        """What `forward` returns of the rows with targets alone: their logits, or the loss."""
        hidden = self.model(**inputs).last_hidden_state
        if logits:
            return TargetOutput(logits=logits_at_targets(hidden, self.lm_head, labels, sources))
        if teaching is not None:
            return distilled_loss(hidden, self.lm_head, labels, sources, teaching, num_items)
        return CausalLMOutputWithPast(loss=loss_at_targets(hidden, self.lm_head, labels, num_items))

    def _embedded_inputs(
        self, embeds: Tensor, sequence: ExpandedSequence, position_ids: Tensor | None, packing: bool
    ) -> dict[str, Any]:
        """What the language model is given of embedded prompts; see `forward`."""
        if not packing:
            positions = sequence.position_ids if position_ids is None else position_ids
            return {"inputs_embeds": embeds, "attention_mask": sequence.attention_mask, "position_ids": positions}
        inputs: dict[str, Any] = {"inputs_embeds": embeds, "attention_mask": sequence.attention_mask}
        inputs["position_ids"] = sequence.position_ids
        inputs["use_cache"] = False  # with a cache transformers would not look at where positions restart
        if self._packing_layout == "single_row":
            inputs |= varlen_arguments(sequence.position_ids, self._attention)
        return inputs

    def _check_penalties(self, input_ids: Tensor | None, options: dict[str, Any]) -> None:
        """Refuses what looks prompts up in the logits, where these have no row for the image token."""
        image_token, rows = self.config.image_token_id, self.config.get_text_config().vocab_size
        if input_ids is None or image_token < rows or not bool((input_ids == image_token).any()):
            return
        settings = options.get("generation_config") or self.generation_config  # type: ignore[attr-defined]
        for name, neutral in (("repetition_penalty", 1.0), ("no_repeat_ngram_size", 0)):
            value = options.get(name) or getattr(settings, name, None) or neutral
            if value != neutral:
                raise ValueError(
                    f"{name}={value} looks at the prompt, and the vocabulary of {rows} has no row for the image token "
                    f"{image_token}, as in every checkpoint of LLaVA's format; use images= instead of pixel_values=, "
                    "or export the checkpoint with python -m llava.hub.export --to hf"
                )

    def _repeats_samples(self, options: dict[str, Any]) -> bool:
        """Whether `generate` will repeat samples; transformers repeats images one by one, and several then mix."""
        settings = options.get("generation_config") or self.generation_config  # type: ignore[attr-defined]
        names = ("num_beams", "num_return_sequences")
        return any((options.get(name) or getattr(settings, name, None) or 1) > 1 for name in names)

    @property
    def _attention(self) -> str:
        return str(self.model.language_model.config._attn_implementation)

    @property
    def _packing_layout(self) -> PackingLayout:
        return packing_layout(self._attention)

    @staticmethod
    def _check_convention(input_ids: Tensor | None, pixel_values: Tensor | None, past_key_values: Any) -> Tensor:
        if input_ids is None:
            raise ValueError("images need input_ids with their placeholders; got inputs_embeds")
        if pixel_values is not None:
            raise ValueError("give images= (LLaVA's convention) or pixel_values= (transformers'), not both")
        if past_key_values is not None and past_key_values.get_seq_length() > 0:
            raise ValueError("the cache holds tokens already; `generate` continues a conversation, forward cannot")
        return input_ids

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        images: Images | _NotGiven | None = _NOT_GIVEN,
        image_sizes: ImageSizes | None = None,
        image_features: Sequence[Tensor] | None = None,
        questions: Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generates in LLaVA's convention with `images=`, or in transformers' without.

        Args:
            inputs: (B, T) with one `-200` an image; `input_ids=` works as well.
            images: See `encode_images`. None is LLaVA's way to say that there is none.
            image_sizes: With `images`, (w, h) of each; with `pixel_values`, (h, w).
            image_features: Output of `encode_images`, in place of `images`. With `past_key_values` from an earlier
                turn and the ids of the whole conversation, only what is new is computed.
            questions: With `images`, what is asked about each; needed for methods that choose by it.
            modalities: With `images`, `image` or `video` for each, as LLaVA-NeXT has it.
            **kwargs: For transformers' `generate`, `attention_mask` and `pixel_values` among them.

        Returns:
            (B, new ids) with `images=` or `image_features=`; else prompt and new ids, as transformers does.
        """
        input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        bound = self.model.bound_pruner
        if bound is not None:
            check_generation(bound.pruner.name, kwargs, self.generation_config)  # type: ignore[attr-defined]
        if self.model.restores:
            check_restored_generation(kwargs, self.generation_config)  # type: ignore[attr-defined]
        in_llava_convention = not isinstance(images, _NotGiven) or image_features is not None
        if not in_llava_convention and not has_placeholders(input_ids):
            if image_sizes is not None:
                kwargs["image_sizes"] = image_sizes
            self._check_penalties(input_ids, kwargs)
            if input_ids is not None:
                text = input_ids.masked_fill(input_ids == self.config.image_token_id, 0)
                check_ids(text, self.config.get_text_config().vocab_size)
            if input_ids is not None and kwargs.get("pixel_values") is not None and self._repeats_samples(kwargs):
                pixels, sizes = kwargs.pop("pixel_values"), kwargs.pop("image_sizes", None)
                per_prompt = kwargs.pop("batch_num_images", None)
                kwargs |= self.model.embed_with_pixels(
                    input_ids, pixels, sizes, kwargs.get("attention_mask"), batch_num_images=per_prompt
                )
            return super().generate(input_ids, **kwargs)  # type: ignore[misc]
        if input_ids is None:
            raise ValueError("generate needs input_ids with a placeholder for each image")
        if not isinstance(images, _NotGiven | None) and len(images) and IMAGE_TOKEN_INDEX not in input_ids:
            logger.warning("the prompt has no <image>, so the images given with it are not looked at")
        embeds, sequence = self.embed_prompts(
            input_ids,
            None if isinstance(images, _NotGiven) else with_modalities(images, modalities),
            image_sizes,
            image_features,
            kwargs.pop("attention_mask", None),
            padding_side="left",
            questions=questions,
        )
        kwargs.pop("position_ids", None)
        return super().generate(  # type: ignore[misc]
            inputs_embeds=embeds,
            attention_mask=sequence.attention_mask,
            **self.model.pruning_inputs(sequence),
            **kwargs,
        )

    def get_model(self) -> Any:
        """LLaVA's name for the model without its head."""
        return self.model

    def get_vision_tower(self) -> VisionTowerView:
        """The vision tower as programs for LLaVA see it."""
        return VisionTowerView(self.model.vision_tower, self.config, self.image_processor)
