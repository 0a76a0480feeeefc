"""Whether a tile can fill a budget."""

from __future__ import annotations

from llava.model.configuration import CompressionConfig


def check_budget(budget: CompressionConfig, num_patches: int, num_cls: int) -> None:
    """Refuses a budget that a tile cannot fill.

    Args:
        budget: Of one tile.
        num_patches: P.
        num_cls: 1 if a CLS token is kept and counts as dominant, else 0.

    Raises:
        ValueError: With the allowed range, and for LLaVA-NeXT's totals the budget that was probably meant.
    """
    most = num_patches + num_cls
    cls_note = " (one of them the CLS token)" if num_cls else ""
    hint = (
        ". A budget holds for each tile: the totals of an image with five tiles (640 / 320 / 160) are "
        "CompressionConfig.from_total(640, tiles=5) and so on"
    )
    if budget.dominant > most:
        raise ValueError(
            f"compression {budget}: dominant={budget.dominant} is outside 1..{most}: "
            f"the tower gives {most} tokens a tile{cls_note}{hint}"
        )
    if budget.num_tokens > most:
        raise ValueError(
            f"compression {budget}: contextual={budget.contextual} is outside 0..{most - budget.dominant}: dominant="
            f"{budget.dominant} leaves {most - budget.dominant} of the tower's {most} tokens a tile to merge{hint}"
        )
