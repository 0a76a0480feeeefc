"""The rows of a batch of prompts as RESTORE sees them: where each would stand if images were whole, and its size.

Shapes: B prompts, L rows, I images of all prompts, K tokens of an image, N rows of a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX
from llava.model.restore.placed_tokens import PlacedTokens
from llava.model.restore.refusals import RestoreError


@dataclass(frozen=True)
class PlacedRows:
    """Rows of a batch. Nothing of them is fetched from the device.

    Attributes:
        valid: (B, L), bool, whether there is a row; else it is padding.
        positions: (B, L), int64, in the sequence with whole images.
        log_sizes: (B, L), log of the rows of its image that a token holds; 0 for text.
        first_log_sizes: (B, L), log N/K for every token of an image, which is what the first layer is told; 0 for text.
        next_position: (B,), of the first new token.
        has_image: (B,), bool, whether the prompt has an image; one without is read as ever.
        is_answer: (B, L), bool, whether the row is of a given answer, which is read as when it is generated.
        farthest: No two rows of a prompt are so many positions apart.
    """

    valid: Tensor
    positions: Tensor
    log_sizes: Tensor
    first_log_sizes: Tensor
    next_position: Tensor
    has_image: Tensor
    is_answer: Tensor
    farthest: int

    @classmethod
    def locate(
        cls,
        image_rows: Tensor,
        attention_mask: Tensor | None,
        images: Sequence[PlacedTokens],
        labels: Tensor | None = None,
    ) -> PlacedRows:
        """Makes it of what stands in each row.

        Args:
            image_rows: (B, L), the row of the concatenated tokens of all images that stands there, -1 for others.
            attention_mask: (B, L), 0 where padded; None for no padding.
            images: I of them, at least one.
            labels: (B, L), `IGNORE_INDEX` but in given answers; None without any.

        Raises:
            RestoreError: The mask has another form.
        """
        if attention_mask is not None and attention_mask.shape != image_rows.shape:
            raise RestoreError(
                f"attention_mask has the shape {tuple(attention_mask.shape)}; give it as (prompts, tokens), "
                f"{tuple(image_rows.shape)}, 1 where there is a token"
            )
        device = image_rows.device
        valid = torch.ones_like(image_rows, dtype=torch.bool) if attention_mask is None else attention_mask != 0
        valid = valid.to(device)
        is_image, row = valid & (image_rows >= 0), image_rows.clamp(min=0)
        places, sizes = (torch.cat([getattr(each, name) for each in images]).to(device) for name in ("places", "sizes"))
        facts = torch.tensor([[len(each), each.num_rows] for each in images], device=device)  # (I, 2): K, N
        starts = facts[:, 0].cumsum(0) - facts[:, 0]
        of_row = torch.repeat_interleave(facts[:, 0], output_size=len(places))  # (sum of K,), the image
        kept, whole = facts[of_row].unbind(dim=1)
        number = torch.arange(len(places), device=device) - starts[of_row]  # within its image
        is_last = is_image & (number == kept - 1)[row]
        lacking = torch.where(is_last, (whole - kept)[row], 0)
        counted = valid.cumsum(dim=1) - 1
        behind = counted + lacking.cumsum(dim=1)  # as if all images up to here were whole
        within = behind - lacking - number[row] + places[row]
        log_sizes, log_mean = sizes.float().log(), (whole / kept).log()
        return cls(
            valid,
            torch.where(is_image, within, behind).clamp(min=0),
            torch.where(is_image, log_sizes[row], 0.0),
            torch.where(is_image, log_mean[row], 0.0),
            behind[:, -1] + 1,
            is_image.any(dim=1),
            torch.zeros_like(valid) if labels is None else (labels != IGNORE_INDEX).to(device),
            image_rows.shape[1] + sum(each.num_rows for each in images),
        )

    def repeated(self, batch: int) -> PlacedRows:
        """The same for a batch in which each prompt stands several times in a row, as for sampling."""
        times = batch // len(self.valid)
        if times <= 1:
            return self
        repeated: dict[str, Any] = {
            field.name: getattr(self, field.name).repeat_interleave(times, 0)
            for field in fields(self)
            if field.name != "farthest"
        }
        return replace(self, **repeated)
