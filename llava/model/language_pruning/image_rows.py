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
        first: Column of the first row of an image, of all prompts.
        after: Rows behind the last image of a prompt, the most of all prompts that have one.
        right_padded: Whether padding stands behind the prompts.
    """

    owner: Tensor
    counts: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    first: int
    after: int
    right_padded: bool = False

    @classmethod
    def locate(cls, image_rows: Tensor, attention_mask: Tensor | None, image_lengths: Sequence[int]) -> ImageRows:
        """Makes it of what stands in each row.

        Args:
            image_rows: (B, L), the row of the concatenated features of all images that stands there, -1 for others.
            attention_mask: (B, L), 0 where padded; None for no padding.
            image_lengths: Rows of each image.
        """
        device, (batch, width) = image_rows.device, image_rows.shape
        number = torch.repeat_interleave(
            torch.arange(len(image_lengths), device=device), torch.tensor(list(image_lengths), device=device)
        )
        is_image = image_rows >= 0
        image = torch.where(
            is_image, number[image_rows.clamp(min=0)] if len(number) else image_rows, -1
        )  # of the batch
        first_image = torch.where(is_image, image, len(image_lengths)).amin(dim=1, keepdim=True)
        owner = torch.where(is_image, image - first_image, -1)
        counts = owner.new_zeros(batch, len(image_lengths) + 1)
        counts.scatter_add_(1, owner + 1, torch.ones_like(owner))
        mask = torch.ones_like(owner) if attention_mask is None else (attention_mask != 0).long()
        column = torch.arange(width, device=device)
        first = torch.where(is_image, column, width).amin()
        last = torch.where(is_image, column, -1).amax(dim=1, keepdim=True)
        after = (mask * (column > last) * (last >= 0)).sum(dim=1)
        ends = torch.stack([first, mask[:, -1].amin()])
        found = torch.cat([ends, mask.sum(dim=1), after, counts[:, 1:].flatten()]).tolist()  # the one wait
        lengths, afters, table = found[2 : 2 + batch], found[2 + batch : 2 + 2 * batch], found[2 + 2 * batch :]
        images = len(image_lengths)
        rows = [table[start : start + images] for start in range(0, batch * images, images)] if images else [[]] * batch
        present = tuple(tuple(count for count in row if count) for row in rows)
        return cls(owner, present, tuple(lengths), found[0], max(afters), right_padded=found[1] == 0)

    def repeated(self, batch: int) -> ImageRows:
        """The same for a batch in which each prompt stands several times in a row, as for sampling."""
        times = batch // len(self.counts)
        if times <= 1:
            return self
        repeat = lambda values: tuple(value for value in values for _ in range(times))  # noqa: E731
        owner = self.owner.repeat_interleave(times, dim=0)
        return ImageRows(owner, repeat(self.counts), repeat(self.lengths), self.first, self.after, self.right_padded)

    @property
    def has_padding(self) -> bool:
        """Whether a prompt is shorter than the others."""
        return min(self.lengths) < self.owner.shape[1]
