"""Which patches of a scene a compressor keeps, and which it merges: as numbers, and drawn over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llava.images.source import ImageSource
from llava.inference import Inference
from llava.model.configuration import CompressionLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_DIMMED = 0.22
_CONTEXTUAL_COLOUR = "#ff9f1c"
_DOMINANT_COLOUR = "#2ec4b6"
_LONGEST_ANSWER = 36


@dataclass(frozen=True)
class KeptTokens:
    """One tile as the vision tower takes it, and what is left of it.

    Attributes:
        picture: (H, W, 3), between 0 and 1: the preprocessed tile.
        grid: (h, w), the patches' rows and columns.
        dominant: Indices of the patches kept as they are, raster order; CLS is not among them.
        contextual: Index of the patch at which a merged token stands -> tokens that it holds, itself included.
        keeps_cls: Whether the CLS token is kept too.
    """

    picture: np.ndarray
    grid: tuple[int, int]
    dominant: tuple[int, ...]
    contextual: dict[int, int]
    keeps_cls: bool

    def caption(self) -> str:
        """What is kept, in words."""
        total = self.keeps_cls + len(self.dominant) + len(self.contextual)
        parts = [f"{len(self.dominant)} patches"] + [f"{len(self.contextual)} merged"] * bool(self.contextual)
        return f"{total} tokens: {' + '.join(['CLS'] * self.keeps_cls + parts)}"


@dataclass(frozen=True)
class Scene:
    """A question about an image, and what each budget keeps and answers.

    Attributes:
        question: The question.
        truth: The right answer.
        panels: What is kept and the model's answer, a budget each, the largest first.
    """

    question: str
    truth: str
    panels: tuple[tuple[KeptTokens, str], ...]


def find_kept_tokens(
    inference: Inference, image: ImageSource, compression: CompressionLike, question: str = ""
) -> KeptTokens:
    """Compresses an image and reports what was kept of its first tile.

    Args:
        inference: The model; its own compression is put back afterwards.
        image: The image.
        compression: The budget.
        question: What is asked, for methods that choose by it.

    Raises:
        ValueError: `compression` is none, or chooses by a question that is not given.
        UnreadableImageError: The image cannot be read.
    """
    model = inference.model
    before = model.compression
    opened = inference.open([image])
    pixels = inference.preprocess(opened)
    try:
        model.set_compression(compression)
        if model.compression is None:
            raise ValueError("without compression every patch is kept: name a budget")
        kept = model.compress_images(pixels, [opened[0].size], [question])
    finally:
        model.set_compression(before)
    tile = pixels[0][0] if pixels[0].ndim == 4 else pixels[0]
    side = round(model.num_patches**0.5)
    positions, sizes = kept.positions[0].tolist(), kept.sizes[0].tolist()
    # Besides VisionZip's contextual tokens, whatever took others in.
    merged = {
        place: size
        for number, (place, size) in enumerate(zip(positions, sizes, strict=True))
        if place >= 0 and (number >= kept.num_dominant or size > 1)
    }
    return KeptTokens(
        picture=_as_seen(tile, inference.image_processor),
        grid=(side, side),
        dominant=tuple(place for place in positions if place >= 0 and place not in merged),
        contextual=merged,
        keeps_cls=(-1, 1) in zip(positions[: kept.num_dominant], sizes, strict=False),  # an empty token has the size 0
    )


def draw_kept_tokens(axes: Axes, kept: KeptTokens, title: str = "") -> None:
    """Draws a tile with what was not kept dimmed; contextual tokens carry the number of tokens merged into them."""
    from matplotlib.patches import Rectangle

    height, width = kept.picture.shape[:2]
    rows, columns = kept.grid
    bright = np.full(rows * columns, _DIMMED)
    bright[list(kept.dominant)] = 1.0
    bright[list(kept.contextual)] = 0.6
    mask = np.kron(bright.reshape(rows, columns), np.ones((height // rows, width // columns)))
    axes.imshow(kept.picture[: mask.shape[0], : mask.shape[1]] * mask[..., None], interpolation="nearest")
    step_x, step_y = width / columns, height / rows
    for places, colour in ((kept.dominant, _DOMINANT_COLOUR), (kept.contextual, _CONTEXTUAL_COLOUR)):
        for place in places:
            corner = (place % columns * step_x - 0.5, place // columns * step_y - 0.5)
            axes.add_patch(Rectangle(corner, step_x, step_y, fill=False, edgecolor=colour, linewidth=0.7))
    for place, size in kept.contextual.items():
        centre = ((place % columns + 0.5) * step_x - 0.5, (place // columns + 0.5) * step_y - 0.5)
        axes.text(*centre, str(size), color="white", fontsize=5, ha="center", va="center")
    axes.set_title(title or kept.caption(), fontsize=8)
    axes.set_axis_off()


def draw_scenes(figure: Figure | SubFigure, scenes: Sequence[Scene]) -> None:
    """Draws a row a scene: the image with question and right answer, then what each budget keeps and answers."""
    columns = 1 + max(len(scene.panels) for scene in scenes)
    grid = figure.subplots(len(scenes), columns, squeeze=False)
    for line, scene in zip(grid, scenes, strict=True):
        for axes in line:
            axes.set_axis_off()
        line[0].imshow(scene.panels[0][0].picture, interpolation="nearest")
        line[0].set_title(f"{scene.question}\n{scene.truth}", fontsize=8)
        for axes, (kept, answer) in zip(line[1:], scene.panels, strict=False):
            draw_kept_tokens(axes, kept, f"{kept.caption()}\nanswer: {_short(answer)}")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_ANSWER else text[: _LONGEST_ANSWER - 3] + "..."


def _as_seen(tile: Any, image_processor: Any) -> np.ndarray:
    """(H, W, 3) in 0..1 of a normalised (3, H, W) tile."""
    picture = tile.float().cpu().numpy().transpose(1, 2, 0)
    picture = picture * np.asarray(image_processor.image_std) + np.asarray(image_processor.image_mean)
    return np.clip(picture, 0.0, 1.0)
