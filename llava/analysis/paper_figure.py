"""Figures as papers take them: small letters, no frames, text that can be searched, the same bytes each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")
PAGE = 6.75
"""Inches of a page's text, two columns, as CVPR and others have it."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Okabe and Ito's, which colour-blind readers tell apart."""
STYLES = ("-", "--", ":", "-.")
"""Of lines, where colours mean something else."""

_STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # letters, not outlines: journals ask for it
    "svg.fonttype": "none",
    "svg.hashsalt": "llava",
    "text.parse_math": False,  # a $ in a folder's name is no formula
}
_UNDATED = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
_DPI = 300


@contextmanager
def paper_style() -> Iterator[None]:
    """The style while a figure is made and saved.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install llava-visionzip[demo]") from None
    settings: Any = {**_STYLE, "axes.prop_cycle": _cycle()}
    with rc_context(settings):
        yield


def _cycle() -> Any:
    from cycler import cycler  # matplotlib requires it

    return cycler(color=COLOURS)


def check_picture(file: Path) -> None:
    """Refuses a picture's name before work for it begins.

    Raises:
        ValueError: Its ending is no format.
    """
    if file.suffix.lower() not in [f".{name}" for name in FORMATS]:
        raise ValueError(f"{file}: a picture's name ends in .{', .'.join(FORMATS)}")


def save_figure(figure: Figure, file: Path) -> Path:
    """Writes a figure, its folder too where there is none; within `paper_style`.

    Args:
        figure: Is not changed.
        file: Its ending says the format.

    Raises:
        ValueError: The ending is no format.
    """
    check_picture(file)
    name = file.suffix.removeprefix(".").lower()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format=name, dpi=_DPI, metadata=_UNDATED[name])
    return file


def style_legend(axes: Axes, names: Sequence[str]) -> None:
    """Says what the styles of lines mean, in the order of `STYLES`; what colours mean is said elsewhere."""
    from matplotlib.lines import Line2D

    styles: Any = STYLES
    lines = [Line2D([], [], color="black", linestyle=styles[number % len(styles)]) for number in range(len(names))]
    axes.legend(lines, names, loc="best", handlelength=1.8)
