"""Inner functions of LLaVA that programs written for it call themselves."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from llava.model.placeholders import is_decoding_step

Prepared = tuple[Tensor | None, Tensor | None, Tensor | None, Any, Tensor | None, Tensor | None]


class LlavaInternals:
    """Mixed into the models; written on top of `embed_prompts`."""

    config: Any
    model: Any
    embed_prompts: Any

    def prepare_inputs_labels_for_multimodal(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Any,
        labels: Tensor | None,
        images: Any,
        image_sizes: Any = None,
    ) -> Prepared:
        """LLaVA's: opens the placeholders of a batch and embeds it.

        Args:
            input_ids: (B, T), one -200 an image.
            position_ids: (B, T) or None; None gives None back.
            attention_mask: (B, T) or None; None gives None back.
            past_key_values: Given back as it is.
            labels: (B, T) or None; None gives None back.
            images: See `encode_images`; None, or a decoding step, changes nothing.
            image_sizes: (w, h) of each image.

        Returns:
            `(None, position_ids, attention_mask, past_key_values, inputs_embeds (B, L, D), labels)`, padded on the side
            that the config's `tokenizer_padding_side` says; without images `(input_ids, position_ids, attention_mask,
            past_key_values, None, labels)`.

        Raises:
            ValueError: Placeholders and images differ in number.
        """
        if images is None or is_decoding_step(input_ids, has_images=True):
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        reason = "embeddings alone do not say where images stand; give images= to the model itself"
        self.model.check_unpruned(reason)
        self.model.check_counted(reason)
        side = getattr(self.config, "tokenizer_padding_side", None) or "right"
        mask = None if attention_mask is None else attention_mask.bool()
        embeds, sequence = self.embed_prompts(input_ids, images, image_sizes, None, mask, labels, padding_side=side)
        return (
            None,
            None if position_ids is None else sequence.position_ids,
            None if attention_mask is None else sequence.attention_mask.to(attention_mask.dtype),
            past_key_values,
            embeds,
            sequence.labels,
        )


__all__ = ["LlavaInternals"]
