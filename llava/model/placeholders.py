"""One `<image>` in the ids becomes as many rows as its image has tokens, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.packing import PackingLayout, pack_samples, padding_positions
from llava.model.restore.placed_tokens import PlacedTokens

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True)
class ExpandedSequence:
    """A batch whose placeholders have been opened; packed, a row holds several samples.

    Attributes:
        input_ids: (B, L), `IMAGE_TOKEN_INDEX` at every image row, 0 where padded.
        attention_mask: (B, L), int64, 1 where there is a token; None if packed, where the positions tell samples apart.
        position_ids: (B, L), counted from each sample's first token.
        image_rows: (B, L), the row of the concatenated image features that stands there, -1 for text and padding.
        labels: (B, L), `IGNORE_INDEX` at image rows, first tokens and padding; None if there were none.
        lost_tokens: Tokens at the end of the longest sample that did not fit.
        image_lengths: Rows of the features of each image.
        placed: The images, where the language model is told where their tokens stand.
        sources: (B, L), where the id of each place stood in the flattened ids, an image's rows where its placeholder
            did; -1 where padded. None if there are no labels.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor
    image_rows: Tensor
    labels: Tensor | None
    lost_tokens: int = 0
    image_lengths: tuple[int, ...] = ()
    placed: tuple[PlacedTokens, ...] = ()
    sources: Tensor | None = None


def expand_placeholders(
    input_ids: Tensor,
    image_lengths: Sequence[int],
    attention_mask: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    padding_side: PaddingSide | None = None,
    max_length: int | None = None,
    packing: PackingLayout | None = None,
) -> ExpandedSequence:
    """Opens every placeholder to the length of its image.

    Args:
        input_ids: (B, T), with `IMAGE_TOKEN_INDEX` once per image.
        image_lengths: Tokens of each image, in the order of the placeholders (row by row).
        attention_mask: (B, T), 0 where padded; all ones if not given. Masked tokens are dropped and padded anew.
        labels: (B, T).
        padding_side: Where the result is padded; by default where the mask is, else right.
        max_length: Samples are cut to this many tokens, on the right, as LLaVA does with `tokenizer_model_max_length`.
        packing: How samples are laid end to end; None gives each its own row.

    Raises:
        ValueError: The number of placeholders is not the number of images.
    """
    valid, is_image = _find_placeholders(input_ids, attention_mask, len(image_lengths))
    if padding_side is None:
        padding_side = "left" if bool((~valid[:, 0]).any()) else "right"

    repeats = valid.long()  # (B, T): how many rows each token becomes
    repeats[is_image] = torch.tensor(image_lengths, dtype=torch.int64, device=input_ids.device)
    source = torch.repeat_interleave(repeats.flatten())  # (sum of lengths,), index into the flattened ids
    row = source // input_ids.shape[1]
    lengths = repeats.sum(dim=1)  # (B,)
    column = torch.arange(len(source), device=row.device) - (lengths.cumsum(0) - lengths)[row]

    expanded_is_image = is_image.flatten()[source]
    image_row = torch.where(expanded_is_image, expanded_is_image.cumsum(0) - 1, -1)
    lost = 0
    if max_length is not None and int(lengths.max()) > max_length:
        lost = int(lengths.max()) - max_length
        fits = column < max_length
        source, row, column, image_row = source[fits], row[fits], column[fits], image_row[fits]
        lengths = lengths.clamp(max=max_length)

    no_target = (image_row >= 0) | (column == 0)  # what stands before a first token is not of its sample
    row, column, positions = _place(row, column, lengths, padding_side, packing)

    def scatter(values: Tensor, fill: int) -> Tensor:
        out = torch.full_like(positions, fill, dtype=values.dtype)
        out[row, column] = values
        return out

    return ExpandedSequence(
        input_ids=scatter(input_ids.flatten()[source], 0),
        attention_mask=None if packing else scatter(torch.ones_like(column), 0),
        position_ids=positions,
        image_rows=scatter(image_row, -1),
        labels=None
        if labels is None
        else scatter(labels.flatten()[source].masked_fill(no_target, IGNORE_INDEX), IGNORE_INDEX),
        lost_tokens=lost,
        image_lengths=tuple(image_lengths),
        sources=None if labels is None else scatter(source, -1),
    )


def _place(
    row: Tensor, column: Tensor, lengths: Tensor, padding_side: PaddingSide, packing: PackingLayout | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Where each token goes.

    Args:
        row: (N,), the sample of each token.
        column: (N,), its place in the sample.
        lengths: (B,), of the samples.
        padding_side: Where rows of one sample are padded.
        packing: How samples share rows.

    Returns:
        Row (N,) and column (N,) of each token, and the positions (rows, L) of all places.
    """
    position = column
    if packing is None:
        width = int(lengths.max())
        positions = position.new_zeros(len(lengths), width)
        if padding_side == "left":
            column = column + (width - lengths)[row]
    else:
        rows = pack_samples(lengths, packing)
        positions = padding_positions(rows)
        row, column = rows.row[row], column + rows.offset[row]
    return row, column, positions.index_put((row, column), position)


def _find_placeholders(input_ids: Tensor, attention_mask: Tensor | None, num_images: int) -> tuple[Tensor, Tensor]:
    """Which ids are tokens and which of those stand for images, both (B, T), bool."""
    valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    is_image = (input_ids == IMAGE_TOKEN_INDEX) & valid
    if int(is_image.sum()) != num_images:
        raise ValueError(
            f"the ids hold {int(is_image.sum())} image placeholders ({IMAGE_TOKEN_INDEX}), but {num_images} "
            "images were given; there must be one <image> in the prompt for each image"
        )
    return valid, is_image


def match_images_to_placeholders(
    input_ids: Tensor, attention_mask: Tensor | None, places: Sequence[int]
) -> list[int] | None:
    """Which of the given images the placeholders take, in order.

    LLaVA's collator gives a text-only sample a dummy image, which no placeholder takes. So as many images as
    placeholders are taken in order, and as many as placeholders plus text-only samples are taken without the dummies.

    Args:
        input_ids: (B, T).
        attention_mask: (B, T), or None.
        places: Placeholders of each image, 1, and of each video.

    Returns:
        Indices of the images that are used; None if all are.

    Raises:
        ValueError: The number of images fits neither rule, or a video's placeholders stand in two samples.
    """
    num_images = sum(places)
    is_image = input_ids == IMAGE_TOKEN_INDEX
    if attention_mask is not None:
        is_image = is_image & attention_mask.bool()
    per_sample = is_image.sum(dim=1).tolist()
    if num_images == sum(per_sample):
        if not {0, *accumulate(places)}.issuperset(accumulate(per_sample)):
            raise ValueError(
                f"the placeholders of a video stand in two prompts: these hold {per_sample}, and the images and videos "
                f"take {list(places)}"
            )
        return None
    if num_images != sum(max(count, 1) for count in per_sample):
        with_videos = "" if len(places) == num_images else f" (videos counted by their placeholders: {list(places)})"
        raise ValueError(
            f"the prompts hold {sum(per_sample)} image placeholders (per sample: {per_sample}), but {num_images} "
            f"images were given{with_videos}; there must be one <image> in the prompt for each image"
        )
    used: list[int] = []
    start = 0
    for count in per_sample:
        used.extend(range(start, start + count))
        start += max(count, 1)
    return used


def is_decoding_step(input_ids: Tensor | None, has_images: bool) -> bool:
    """Whether the ids continue a prompt, one id a sample: a prompt of nothing but an image is one, if one is given."""
    if input_ids is None or input_ids.shape[1] != 1:
        return False
    return not has_images or not bool((input_ids == IMAGE_TOKEN_INDEX).any())


def has_placeholders(input_ids: Tensor | None) -> bool:
    """Whether a prompt has an image; a decoding step, one id a sample, is never asked."""
    return input_ids is not None and input_ids.shape[-1] > 1 and bool((input_ids == IMAGE_TOKEN_INDEX).any())
