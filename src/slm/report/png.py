"""Curves as a PNG file, for the commands that measure something apart from a run.

In: rows of panels, each with its lines. Out: one file, one line colour a label throughout, a legend where the
lines have names. What belongs into the page of a run is drawn by `charts` instead.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Line:
    """Points in order; an empty label leaves it out of the legend."""

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    faint: bool = False
    dots: bool = False
    """Points alone."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes, the horizontal one logarithmic unless told otherwise."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log_y: bool = False
    log_x: bool = True
    y_range: tuple[float, float] | None = None
    marks: Sequence[tuple[float, str]] = field(default=())
    """Upright lines at x, each with a text."""


def draw(path: Path, rows: Sequence[Sequence[Panel]]) -> None:
    """Write the panels, row by row, to `path`."""
    figure = Figure(figsize=(5.2 * max(map(len, rows)), 3.8 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(len(rows), max(map(len, rows)), squeeze=False)
    for number, row in enumerate(rows):
        for axes, panel in zip(all_axes[number], row, strict=True):
            for index, line in enumerate(panel.lines):
                style: dict[str, Any] = {"alpha": 0.3, "linewidth": 1} if line.faint else {"linewidth": 1.8}
                marker = "" if len(line.x) > 20 and not line.dots else "o"
                style |= {"linestyle": "none"} if line.dots else {}
                axes.plot(line.x, line.y, color=f"C{index}", marker=marker, label=line.label or None, **style)
            for x, text in panel.marks:
                axes.axvline(x, color="0.4", linestyle="--", linewidth=1)
                axes.text(x, 0.98, f" {text}", transform=axes.get_xaxis_transform(), va="top", rotation=90, fontsize=8)
            if panel.log_x:
                axes.set_xscale("log")
            places = sorted({x for line in panel.lines for x in line.x})
            if len(places) <= 8:
                texts = [f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in places]
                axes.set_xticks(places, texts, rotation=30 if len(places) > 5 else 0)
                axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
            if panel.log_y:
                axes.set_yscale("log")
            if panel.y_range:
                axes.set_ylim(*panel.y_range)
            axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
            axes.grid(alpha=0.3)
            if any(line.label for line in panel.lines):
                axes.legend(fontsize=8)
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=110)
    path.write_bytes(written.getvalue())
