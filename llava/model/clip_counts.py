"""What is known of a video's frames before one is encoded: their shape for a compressor, and their tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

from llava.kinds.clips import ClipRules
from llava.kinds.families import clip_rules
from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import Place, TileShape, compressor_of
from llava.model.stages import before_language_model
from llava.model.tile_shapes import tile_shape


@dataclass(frozen=True)
class FrameCounts:
    """The frames of one model's videos.

    Attributes:
        rules: How many it sees, and which.
        shape: What a compressor is told of a frame.
    """

    rules: ClipRules
    shape: TileShape

    @classmethod
    def from_config(cls, config: Any) -> FrameCounts:
        """Those of a model's config.

        Raises:
            ValueError: Its family sees no videos.
        """
        rules, whole = clip_rules(config), tile_shape(config)
        places = cast(tuple[Place, ...], rules.places)
        keep_cls = whole.keep_cls and rules.keeps_cls
        if rules.pooled_side is None:
            return cls(rules, replace(whole, keep_cls=keep_cls, places=places))
        side = rules.pooled_side(config, whole.grid[0])
        return cls(rules, replace(whole, grid=(side, side), keep_cls=keep_cls, places=places))

    def check(self, budget: CompressionConfig) -> None:
        """Refuses a budget, of the part before the language model, that frames cannot have.

        Raises:
            ValueError: The message says why.
        """
        if budget.restores:
            raise ValueError(f"compression {budget}: positions=restore is for images; leave it out for videos")
        if budget.tiles == "area":
            raise ValueError(f"compression {budget}: tiles=area goes by the tiles of an image, and a frame is whole")
        try:
            compressor_of(budget).check(budget, self.shape)
        except ValueError as error:
            raise ValueError(f"of a video's frame: {error}") from error

    def tokens_per_frame(self, compression: CompressionConfig | None) -> int:
        """Rows of a frame that the language model is given; raises as `check`."""
        budget = before_language_model(compression)
        if budget is None:
            return self.shape.num_patches + int(self.shape.keep_cls)
        self.check(budget)
        return compressor_of(budget).num_tokens(budget, self.shape)

    def lengths(self, compression: CompressionConfig | None, num_frames: int | None) -> list[int]:
        """Rows behind each placeholder of a video; with an adaptive budget the most.

        Where the frames of a clip share its total, their sum is exact, and what each frame has is known once it is
        encoded.

        Args:
            compression: None without one.
            num_frames: That the model sees of it; None for as many as its family does.

        Raises:
            ValueError: The model sees another number, or the budget does not fit a frame.
        """
        frames, each = self.rules.num_frames(num_frames), self.tokens_per_frame(compression)
        return [each] * frames if self.rules.marks_frames else [each * frames + self.rules.rows_behind]


__all__ = ["FrameCounts"]
