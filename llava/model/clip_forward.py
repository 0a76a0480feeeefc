"""Transformers' calling convention for videos: `pixel_values_videos`, and in the ids a video token a feature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from llava.model.clip_seam import ClipSeam


class ClipForward(ClipSeam):
    """Mixed into the base models of families that see videos, before `MultimodalForward`."""

    get_image_features: Any

    def forward(self, input_ids: Tensor | None = None, pixel_values_videos: Tensor | None = None, **kwargs: Any) -> Any:
        """As `MultimodalForward.forward`, and with videos.

        Args:
            input_ids: (B, L); for a video the config's `video_token_id`, once for every feature of it.
            pixel_values_videos: (videos, T, 3, H, W), in the order of the ids.
            **kwargs: As there; `pixel_values` holds the images beside the videos.

        Raises:
            ValueError: Ids are missing, or tokens and features differ in number.
        """
        if pixel_values_videos is None or not len(pixel_values_videos):
            return super().forward(input_ids=input_ids, **kwargs)  # type: ignore[misc]
        if input_ids is None:
            raise ValueError("pixel_values_videos need input_ids, which say where the video stands; got inputs_embeds")
        image_token, video_token = self.config.image_token_id, getattr(self.config, "video_token_id", None)
        if video_token is None:
            raise ValueError(
                "the ids of this model have no token for videos; give images= with one -200 a frame instead"
            )
        given = {name: kwargs.pop(name, None) for name in ("pixel_values", "image_sizes", "batch_num_images")}
        encoded = {**(kwargs.pop("mm_encoder_outputs", None) or {})}
        images: Sequence[Tensor] = () if encoded.get("image") is None else encoded["image"].pooler_output
        if given["pixel_values"] is not None:
            images = self.get_image_features(**given).pooler_output
        videos = [rows for clip in self.clip_features(list(pixel_values_videos)) for rows in clip]
        features = _in_order(input_ids, image_token, video_token, iter(images), iter(videos))
        encoded["image"] = BaseModelOutputWithPooling(pooler_output=features)
        ids = torch.where(input_ids == video_token, image_token, input_ids)
        return super().forward(input_ids=ids, mm_encoder_outputs=encoded, **kwargs)  # type: ignore[misc]


def _in_order(
    input_ids: Tensor, image_token: int, video_token: int, images: Iterator[Tensor], videos: Iterator[Tensor]
) -> list[Tensor]:
    """Features of images and videos as they stand in the ids; those that have no place come last, to be counted."""
    found: list[Tensor] = []
    for row in input_ids.tolist():
        place = 0
        while place < len(row):
            kind = {image_token: images, video_token: videos}.get(row[place])
            rows = None if kind is None else next(kind, None)
            if rows is not None:
                found.append(rows)
            place += 1 if rows is None else len(rows)
    return [*found, *images, *videos]


__all__ = ["ClipForward"]
