"""The picture of `docs/performance.md`: what a prompt costs the language model against its visual tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MODELS = ("LLaVA-1.5-7B", "LLaVA-NeXT-7B")


def draw_costs(results: Mapping[str, Sequence[Mapping[str, Any]]], file: Path) -> None:
    """Draws operations, the paper's formula and measured prefill, each over its own at all tokens.

    Operations are a quadratic of the length, so that the counted budgets fix the curves.

    Args:
        results: Machine -> its reports, as they stand in JSON.
        file: An SVG to write; nothing is written while no machine has counted costs.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    counted = [told for reports in results.values() for told in reports if told["benchmark"] == "cost"]
    models = [model for model in MODELS if counted and any(row["model"] == model for row in counted[0]["rows"])]
    if not models:
        return
    with plt.rc_context({"svg.hashsalt": "cost", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(1, len(models), figsize=(9, 3.4), layout="constrained", squeeze=False)
        for model, panel in zip(models, axes[0], strict=True):
            rows = [row for row in counted[0]["rows"] if row["model"] == model]
            for column, style, label in (
                ("prefill TFLOP", "-", "operations, counted"),
                ("paper's TFLOP", "--", "the paper's formula"),
            ):
                x, y = _relative(rows, column)
                curve = np.polynomial.Polynomial.fit(x, y, 2)
                line = np.linspace(0, max(x), 200)
                panel.plot(line, curve(line), style, label=label)
            measured = _measured(results, model)
            for machine, found in measured.items():
                scaled = ", scaled down" if "scaled down" in found[0]["model"] else ""
                panel.plot(*_relative(found, "prefill ms"), "o", label=f"prefill on {machine}{scaled}")
            in_paper = [row for row in next(iter(measured.values()), []) if row["paper's prefill ms"] is not None]
            if in_paper:
                panel.plot(*_relative(in_paper, "paper's prefill ms"), "kx", label="prefill in the paper (A800)")
            panel.set(title=model, xlabel="visual tokens", ylabel="cost, all tokens = 1", ylim=(0, None))
            panel.legend(frameon=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None})
        plt.close(figure)


def _measured(results: Mapping[str, Sequence[Mapping[str, Any]]], model: str) -> dict[str, list[Mapping[str, Any]]]:
    """Machine -> rows of its prefill at batch 1, if it was measured at all tokens."""
    found = {}
    for machine, reports in results.items():
        rows = [row for told in reports if told["benchmark"] == "prefill" for row in told["rows"]]
        rows = [row for row in rows if row["model"].startswith(model) and row["batch"] == 1]
        rows = [row for row in rows if row["prefill ms"] is not None]
        if len(rows) > 1:
            found[machine] = rows
    return found


def _relative(rows: Sequence[Mapping[str, Any]], column: str) -> tuple[list[int], list[float]]:
    """Tokens, and the column over its value at most tokens."""
    whole = max(rows, key=lambda row: row["tokens"])
    return [row["tokens"] for row in rows], [row[column] / whole[column] for row in rows]
