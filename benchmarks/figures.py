"""A picture of a study: a panel for each metric, a dot with its interval for each arm."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path

from benchmarks.results import Result, arms, by_prompt, scores
from toolkit.core.files import write_atomic
from toolkit.evaluation.bootstrap import mean_interval

ACROSS = 7
"""Panels beside each other: more would be too small to read on a page."""


def draw_figure(result: Result, path: Path) -> None:
    """Write an SVG that is the same bytes for the same result (and the same matplotlib)."""
    import matplotlib
    from matplotlib.figure import Figure

    names, metrics = arms(result), result["metrics"]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": result["study"], "font.size": 8}):
        rows = math.ceil(len(metrics) / ACROSS)
        columns = math.ceil(len(metrics) / rows)
        size = 1.2 + 1.35 * columns, rows * (0.7 + 0.24 * len(names))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
        for panel in axes[len(metrics) :]:
            panel.remove()
        for metric, panel in zip(metrics, axes[: len(metrics)], strict=True):
            for place, arm in enumerate(names):
                values = by_prompt(scores(result, arm, metric))
                if values:
                    found = mean_interval(values)
                    colour = "tab:orange" if arm == result["baseline"] else "tab:blue"
                    panel.plot([found.low, found.high], [place, place], color=colour, linewidth=1.5)
                    panel.plot([found.mean], [place], "o", color=colour, markersize=4)
            panel.set_title(metric, fontsize=8)
            panel.set_xlim(-0.03, 1.03)
            panel.set_ylim(len(names) - 0.5, -0.5)  # the first arm on top
            panel.set_yticks(range(len(names)), names)
            panel.grid(axis="x", linewidth=0.3)
        buffer = BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_atomic(path, buffer.getvalue())
