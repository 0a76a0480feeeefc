"""Where the images of a batch of prompts stand, as a pruner must know it.

Shapes: B prompts, L rows, I images of the prompt that has the most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageRows:
    """Rows of a batch, by image. What the host must know of them is fetched once, when this is made.

    Attributes:
        owner: (B, L), int64: the number of the image in its prompt, -1 for text and padding.
        counts: For each prompt, rows of each of its images.
        lengths: For each prompt, its rows without padding.
        after: Rows behind the last image of a prompt, the most of all prompts that have one.
        right_padded: Whether padding stands behind the prompts.
    """

    owner: Tensor
    counts: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    after: int
    right_padded: bool = False

    @classmethod
    def locate(cls, image_rows: Tensor, attention_mask: Tensor | None, image_lengths: Sequence[int]) -> ImageRows:
        """Makes it of what stands in each row.

        Args:
            image_rows: (B, L), the row of the concatenated features of all images that stands there, -1 for others.
            attention_mask: (B, cached + L), 0 where padded; None for no padding. A row of an image that it hides is no
                row of the image.
            image_lengths: Rows of each image.

        Raises:
            ValueError: The mask has another form.
        """
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(
                f"attention_mask has the shape {tuple(attention_mask.shape)}, and a method inside the language model "
                "needs it as (prompts, tokens), 1 where there is a token"
            )
        device, (batch, width), most = image_rows.device, image_rows.shape, len(image_lengths)
        rows_of = torch.tensor(list(image_lengths), dtype=torch.int64, device=device)
        number = torch.arange(most, device=device).repeat_interleave(rows_of, output_size=sum(image_lengths))
        mask = torch.ones_like(image_rows) if attention_mask is None else (attention_mask[:, -width:] != 0).long()
        is_image = (image_rows >= 0) & (mask.to(device) != 0)
        image = number[image_rows.clamp(min=0)] if len(number) else image_rows  # its number in the batch
        before = torch.where(is_image, image, most).amin(dim=1, keepdim=True)
        owner = torch.where(is_image, image - before, -1)
        counts = owner.new_zeros(batch, most + 1).scatter_add(1, owner + 1, torch.ones_like(owner))[:, 1:]
        column = torch.arange(width, device=device)
        last = torch.where(is_image, column, -1).amax(dim=1, keepdim=True)
        after = (mask * (column > last) * (last >= 0)).sum(dim=1, keepdim=True)
        facts = torch.cat([mask.sum(dim=1, keepdim=True), after, mask[:, -1:], counts], dim=1).tolist()  # the one wait
        lengths, afters, ends, *_ = zip(*facts, strict=True)
        present = tuple(tuple(count for count in row[3:] if count) for row in facts)
        return cls(owner, present, lengths, max(afters), right_padded=min(ends) == 0)

    def repeated(self, batch: int) -> ImageRows:
        """The same for a batch in which each prompt stands several times in a row, as for sampling."""
        times = batch // len(self.counts)
        if times <= 1:
            return self
        repeat = lambda values: tuple(value for value in values for _ in range(times))  # noqa: E731
        owner = self.owner.repeat_interleave(times, dim=0)
        return ImageRows(owner, repeat(self.counts), repeat(self.lengths), self.after, self.right_padded)

    @property
    def has_padding(self) -> bool:
        """Whether a prompt is shorter than the others."""
        return min(self.lengths) < self.owner.shape[1]
