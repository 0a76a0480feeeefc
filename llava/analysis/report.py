"""results.json -> report.png and report.html: kept tokens over scenes, accuracy against tokens, the table."""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llava.analysis.kept_tokens import KeptTokens, draw_kept_tokens
from llava.command_line import plain_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Row = dict[str, Any]

_COLOURS = {"visionzip": "#2ec4b6", "visionzip+tuned": "#e71d36", "random": "#8d99ae", "uniform": "#ff9f1c"}
_COLUMNS = (
    ("task", "task"),
    ("method", "method"),
    ("tokens", "tokens"),
    ("accuracy", "accuracy"),
    ("f1", "F1"),
    ("retention", "retention"),
    ("vision_ms", "vision ms"),
    ("prefill_ms", "prefill ms"),
    ("n", "questions"),
)
_PERCENT = {"accuracy", "f1", "retention"}


@dataclass(frozen=True)
class Scene:
    """A picture for the report: a question, and what each budget keeps and answers.

    Attributes:
        question: The question.
        truth: The right answer.
        panels: What is kept and the model's answer, a budget each, the largest first.
    """

    question: str
    truth: str
    panels: tuple[tuple[KeptTokens, str], ...]


def build_report(
    rows: Sequence[Row], output_dir: Path, *, scenes: Sequence[Scene] = (), title: str = "Results", notes: str = ""
) -> tuple[Path, Path]:
    """Writes `report.png` and the self-contained `report.html`.

    Args:
        rows: Rows of a results.json; of a row `task, method, tokens, accuracy` must be there.
        output_dir: Where to write.
        scenes: Pictures of kept tokens.
        title: Heading.
        notes: A line under the heading.

    Returns:
        The paths of the picture and of the page.

    Raises:
        ValueError: There are no rows.
    """
    if not rows:
        raise ValueError("there are no rows to report; run the evaluation first")
    output_dir.mkdir(parents=True, exist_ok=True)
    picture = _picture(rows, scenes, title)
    png, page = output_dir / "report.png", output_dir / "report.html"
    png.write_bytes(picture)
    encoded = base64.b64encode(picture).decode()
    page.write_text(
        f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
img {{ max-width: 100% }}
table {{ border-collapse: collapse }}
th, td {{ padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right }}
th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left }}
</style>
<h1>{html.escape(title)}</h1>
<p>{html.escape(notes)}</p>
<img alt="kept tokens over scenes, and accuracy against tokens" src="data:image/png;base64,{encoded}">
{html_table(rows)}
</html>
""",
        encoding="utf-8",
    )
    return png, page


def read_rows(path: Path) -> list[Row]:
    """The rows of a results.json.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON, or has no rows of task, method, tokens and accuracy.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); name a results.json of llava.eval") from None
    rows = content.get("rows") if isinstance(content, dict) else None
    needed = {"task", "method", "tokens", "accuracy"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and needed <= row.keys() for row in rows):
        raise ValueError(f"{path} has no rows of {', '.join(sorted(needed))}; name a results.json of llava.eval")
    return rows


def html_table(rows: Sequence[Row]) -> str:
    """The rows as an HTML table; columns that no row has are left out."""
    columns = [(name, heading) for name, heading in _COLUMNS if any(row.get(name) is not None for row in rows)]
    lines = ["<table>", "<tr>" + "".join(f"<th>{heading}</th>" for _, heading in columns) + "</tr>"]
    for row in rows:
        cells = (html.escape(_cell(name, row)) for name, _ in columns)
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _cell(name: str, row: Row) -> str:
    value = row.get(name)
    if value is None:
        return "-"
    if name in _PERCENT:
        return f"{100 * value:.1f} %"
    return f"{value:.2f}" if name.endswith("_ms") else f"{value:g}" if isinstance(value, float) else str(value)


def _picture(rows: Sequence[Row], scenes: Sequence[Scene], title: str) -> bytes:
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure = Figure(figsize=(11, 4 + 3 * len(scenes)), layout="constrained")
    figure.suptitle(title)
    curves: Figure | SubFigure = figure
    if scenes:
        upper, curves = cast("Sequence[SubFigure]", figure.subfigures(2, 1, height_ratios=[3 * len(scenes), 4]))
        _draw_scenes(upper, scenes)
    for axes, task in zip(curves.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        _draw_curves(axes, [row for row in rows if row["task"] == task], task)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()


def _draw_scenes(figure: SubFigure, scenes: Sequence[Scene]) -> None:
    columns = 1 + max(len(scene.panels) for scene in scenes)
    grid = figure.subplots(len(scenes), columns, squeeze=False)
    for line, scene in zip(grid, scenes, strict=True):
        for axes in line:
            axes.set_axis_off()
        line[0].imshow(scene.panels[0][0].picture, interpolation="nearest")
        line[0].set_title(f"{scene.question}\n{scene.truth}", fontsize=8)
        for axes, (kept, answer) in zip(line[1:], scene.panels, strict=False):
            draw_kept_tokens(axes, kept, f"{kept.caption()}\nanswer: {_short(answer)}")


def _draw_curves(axes: Axes, rows: Sequence[Row], task: str) -> None:
    for row in rows:
        if row["method"] == "none":
            axes.axhline(100 * row["accuracy"], color="black", linewidth=0.8, linestyle="--", label="all tokens")
    methods = dict.fromkeys(row["method"] for row in rows if row["method"] != "none")
    for method in methods:
        points = sorted((row["tokens"], 100 * row["accuracy"]) for row in rows if row["method"] == method)
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=method, color=_COLOURS.get(method))
    axes.set_xlabel("visual tokens an image")
    axes.set_ylabel("accuracy, %")
    axes.set_title(task, fontsize=10)
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _short(text: str, limit: int = 36) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m llava.analysis.report results.json [--output-dir DIR]`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m llava.analysis.report", description=__doc__)
    parser.add_argument("results", type=Path, help="a results.json")
    parser.add_argument("--output-dir", type=Path, help="default: beside the results")
    parser.add_argument("--title", default="Results")
    args = parser.parse_args(arguments)
    with plain_errors():
        rows = read_rows(args.results)
        for path in build_report(rows, args.output_dir or args.results.parent, title=args.title):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
