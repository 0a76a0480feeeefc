"""What is kept of images, drawn over them: dominant patches outlined, merged ones tinted by the token they are in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llava.analysis.kept_tokens.find import KeptTokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_DIMMED = 0.22
_CONTEXTUAL_COLOUR = "#ff9f1c"
_DOMINANT_COLOUR = "#2ec4b6"
_LONGEST_ANSWER = 36
_TINT = 0.5  # of the colour; the rest is the picture
_GOLDEN = 0.618034  # turns of the hue between one token and the next, so that neighbours differ


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


def draw_kept_tokens(axes: Axes, kept: KeptTokens, title: str = "", *, tinted: bool = False) -> None:
    """Draws a tile with what was not kept dimmed; contextual tokens carry the number of tokens merged into them.

    Args:
        axes: Where.
        kept: What is kept of the tile.
        title: Above it; by default the caption.
        tinted: Whether a merged patch has the colour of the token that took it; else that token's own patch alone is
            shown.
    """
    from matplotlib.patches import Rectangle

    height, width = kept.picture.shape[:2]
    rows, columns = kept.grid
    seen, colours = _bright(kept), _colours(kept) if tinted else {}
    if colours:
        seen = _tinted(seen, kept, colours)
    axes.imshow(seen, interpolation="nearest")
    step_x, step_y = width / columns, height / rows
    outlines: list[tuple[int, object]] = [(place, _DOMINANT_COLOUR) for place in kept.dominant]
    outlines += [(place, colours.get(place, _CONTEXTUAL_COLOUR)) for place in kept.contextual]
    for place, colour in outlines:
        corner = (place % columns * step_x - 0.5, place // columns * step_y - 0.5)
        axes.add_patch(Rectangle(corner, step_x, step_y, fill=False, edgecolor=colour, linewidth=0.7))
    for place, size in kept.contextual.items():
        centre = ((place % columns + 0.5) * step_x - 0.5, (place // columns + 0.5) * step_y - 0.5)
        axes.text(*centre, str(size), color="white", fontsize=5, ha="center", va="center")
    axes.set_title(title or kept.caption(), fontsize=8)
    axes.set_axis_off()


def _bright(kept: KeptTokens) -> NDArray[np.float64]:
    """(H, W, 3): the picture, darker where it is not kept as it is; cut to whole patches."""
    bright = np.full(kept.grid[0] * kept.grid[1], _DIMMED)
    bright[list(kept.dominant)] = 1.0
    bright[list(kept.contextual)] = 0.6
    mask = _over_pixels(bright, kept)
    seen: NDArray[np.float64] = kept.picture[: mask.shape[0], : mask.shape[1]] * mask[..., None]
    return seen


def _colours(kept: KeptTokens) -> dict[int, tuple[float, float, float]]:
    """A colour for each merged token, by the patch at which it stands."""
    from matplotlib.colors import hsv_to_rgb

    hues = [(number * _GOLDEN) % 1.0 for number in range(len(kept.contextual))]
    return {
        place: tuple(hsv_to_rgb((hue, 0.85, 1.0))) for place, hue in zip(sorted(kept.contextual), hues, strict=True)
    }


def _tinted(
    seen: NDArray[np.float64], kept: KeptTokens, colours: dict[int, tuple[float, float, float]]
) -> NDArray[np.float64]:
    """The picture with merged patches in the colour of their token."""
    tint = np.zeros((kept.grid[0] * kept.grid[1], 3))
    is_merged = np.zeros(len(tint))
    for patch, holder in enumerate(kept.holders):
        if holder in colours:
            tint[patch], is_merged[patch] = colours[holder], 1.0
    over = np.stack([_over_pixels(tint[:, channel], kept) for channel in range(3)], axis=-1)
    share = _TINT * _over_pixels(is_merged, kept)[..., None]
    picture = kept.picture[: seen.shape[0], : seen.shape[1]]
    tinted: NDArray[np.float64] = np.where(share > 0, share * over + (1 - share) * picture, seen)
    return tinted


def _over_pixels(values: NDArray[np.float64], kept: KeptTokens) -> NDArray[Any]:
    """A value for each patch, as one for each of its pixels."""
    (height, width), (rows, columns) = kept.picture.shape[:2], kept.grid
    pixels = np.ones((height // rows, width // columns))
    return np.kron(values.reshape(rows, columns), pixels)


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
