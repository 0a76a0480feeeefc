"""The quickstart's picture and page: kept tokens over scenes, what is kept of the score, the table."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava.analysis.kept_tokens.draw import Scene
    from llava.eval.report.table import Table

_COLUMNS = (("method", "method"), ("tokens", "tokens"), ("accuracy", "accuracy"), ("retention", "retention"))
_COLUMNS += (("vision_ms", "vision ms"), ("prefill_ms", "prefill ms"), ("n", "questions"))
_PERCENT = {"accuracy", "retention"}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
img { max-width: 100%; height: auto; display: block; margin: auto }
div.wide { overflow-x: auto }
table { border-collapse: collapse }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
"""


def write_page(folder: Path, table: Table, rows: Sequence[dict[str, Any]], scenes: Sequence[Scene], notes: str) -> Path:
    """Writes `report.png`, and the page `report.html` with its halves one by one; returns the page's path."""
    title = "A tiny LLaVA with VisionZip"
    (folder / "report.png").write_bytes(draw(table, scenes, title))
    curves, kept = (base64.b64encode(draw(*half)).decode() for half in ((table, (), ""), (None, scenes, "")))
    page = folder / "report.html"
    page.write_text(
        f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>{_STYLE}</style>
<h1>{title}</h1>
<p>{html.escape(notes)}</p>
<img alt="what is kept of the score against tokens" src="data:image/png;base64,{curves}">
<div class="wide">
{html_table(rows)}
</div>
<img alt="kept tokens over scenes" src="data:image/png;base64,{kept}">
</html>
""",
        encoding="utf-8",
    )
    return page


def draw(table: Table | None, scenes: Sequence[Scene], title: str) -> bytes:
    """A PNG: scenes above, retention against tokens below, or one of the two."""
    from matplotlib.figure import Figure

    from llava.analysis.kept_tokens.draw import draw_scenes
    from llava.eval.report.picture import draw_panel

    heights = [3 * len(scenes)] * bool(scenes) + [4] * (table is not None)
    # The curve alone is so small that its letters can be read on a phone.
    figure = Figure(figsize=(11 if scenes else 5.5, sum(heights)), layout="constrained")
    figure.suptitle(title)
    parts = list(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).flat)
    if scenes:
        draw_scenes(parts[0], scenes)
    if table is not None:
        axes = parts[-1].subplots()
        draw_panel(axes, table, "tiny_vqa")
        axes.set_xlabel("visual tokens")
        axes.set_ylabel("% of vanilla")
        axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()


def html_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as an HTML table."""
    lines = ["<table>", "<tr>" + "".join(f"<th>{heading}</th>" for _, heading in _COLUMNS) + "</tr>"]
    for row in rows:
        cells = (html.escape(_cell(name, row.get(name))) for name, _ in _COLUMNS)
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in _PERCENT:
        return f"{100 * value:.1f} %"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
