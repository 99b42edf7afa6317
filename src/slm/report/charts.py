"""Curves of a run as SVG that takes its colours and fonts from the page.

In: rows of the metrics. Out: markup to put into HTML: no width of its own, text as text, colours as CSS
variables (so that light, dark and print differ), ids unique in the page, a title for those who cannot see.
Curves are thinned to `POINTS` by averaging neighbours, and what was drawn is 10-40 kB a chart.

matplotlib lays out, with placeholder colours that are replaced by variables afterwards.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from slm.report import page

POINTS = 320
SMOOTH_SHARE = 0.02
SETTLED_SHARE = 0.05
INK, MUTED, LINE, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
VARIABLES = {
    INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", FIRST: "var(--first)", SECOND: "var(--second)",
}  # fmt: skip
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 1,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 8,
    "ytick.major.pad": 8,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}
Size = tuple[int, int]
WIDE: Size = (880, 340)
NARROW: Size = (360, 280)
SMALL: Size = (300, 206)

Rows = Sequence[dict[str, Any]]


def compact(value: float) -> str:
    """A number on an axis: 12M, 1.5k, 0.003."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


class Interval(NamedTuple):
    """A row of a forest: a value with its interval, and an upright mark such as what chance gives."""

    label: str
    value: float
    low: float
    high: float
    mark: float | None = None


def loss_chart(steps: Rows, evaluations: Rows, size: Size) -> str:
    """Loss against tokens: training (each logged step faintly, and smoothed) and held-out."""
    title = f"Loss in nats per token against tokens trained on; training ends at {steps[-1]['loss']:.3f}"
    if evaluations:
        title += f", held-out at {evaluations[-1]['loss']:.3f}"

    def draw(axes: Axes) -> None:
        tokens, losses = _columns(steps, "loss")
        axes.plot(*_thinned(tokens, losses), color=FIRST, linewidth=1, alpha=0.28)
        smooth = _smoothed(losses)
        axes.plot(*_thinned(tokens, smooth), color=FIRST, linewidth=2)
        ends = [("train", tokens[-1], smooth[-1], FIRST)]
        seen = losses[_settled(tokens) :]
        if evaluations:
            points, values = _columns(evaluations, "loss")
            marker = "o" if len(points) <= 24 else ""
            axes.plot(points, values, color=SECOND, linewidth=2, marker=marker, markersize=4.5)
            ends.append(("held out", points[-1], values[-1], SECOND))
            seen = seen + values[-max(1, len(values) - 1) :]
        margin = 0.06 * (max(seen) - min(seen) or 1)
        axes.set_ylim(min(seen) - margin, max(seen) + margin)
        _label_ends(axes, ends, size)

    return _svg(f"loss-{size[0]}", title, size, draw, x_label="tokens trained on", y_label="nats per token")


def curve(name: str, title: str, steps: Rows, key: str, *, smooth: bool = False, floor: float | None = None) -> str:
    """One figure of the metrics against tokens."""

    def draw(axes: Axes) -> None:
        tokens, values = _columns(steps, key)
        if smooth:
            axes.plot(*_thinned(tokens, values), color=FIRST, linewidth=1, alpha=0.28)
            axes.plot(*_thinned(tokens, _smoothed(values)), color=FIRST, linewidth=2)
            top = max(values[_settled(tokens) :]) * 1.08
            axes.set_ylim(floor, top if top > (floor or 0) else None)
        else:
            axes.plot(*_thinned(tokens, values), color=FIRST, linewidth=2)
            axes.set_ylim(floor, None)

    return _svg(name, title, SMALL, draw, x_label="tokens")


def by_layer(name: str, title: str, rows: Rows, quantity: str) -> str:
    """A figure of each layer against tokens, one line a layer, fainter the nearer to the embedding."""
    keys = sorted(key for key in rows[-1] if key.startswith(f"{quantity}.") and key.rpartition(".")[2].isdigit())

    def draw(axes: Axes) -> None:
        for number, key in enumerate(keys, 1):
            tokens, values = _columns(rows, key)
            marker = "o" if len(tokens) == 1 else ""
            alpha = 1.0 - 0.8 * (1 - number / len(keys))
            axes.plot(*_thinned(tokens, values), color=FIRST, linewidth=1.5, alpha=alpha, marker=marker)
        axes.set_ylim(0, None)

    return _svg(name, title, SMALL, draw, x_label="tokens")


def histogram(name: str, title: str, powers: Mapping[int, int], size: Size) -> str:
    """Counts by power of two; key n is drawn over 2**(n - 1) to 2**n on a logarithmic axis."""

    def draw(axes: Axes) -> None:
        edges = range(min(powers), max(powers) + 1)
        axes.bar([power - 0.5 for power in edges], [powers.get(power, 0) for power in edges], 0.92, color=FIRST)
        axes.set_ylim(0, None)

    return _svg(
        name, title, size, draw, first=min(powers) - 1, x_text=lambda value: compact(2**value), whole=True,
        x_label="bytes", y_label="documents",
    )  # fmt: skip


def forest(
    name: str,
    title: str,
    rows: Sequence[Interval],
    size: Size,
    x_label: str,
    reference: float | None = 0.0,
    limits: tuple[float, float] | None = None,
) -> str:
    """Values with their intervals from the top down, beside an upright line; without limits that is in the middle."""

    def draw(axes: Axes) -> None:
        places = range(len(rows) - 1, -1, -1)
        if reference is not None:
            axes.axvline(reference, color=MUTED, linewidth=1)
        for place, row in zip(places, rows, strict=True):
            axes.plot([row.low, row.high], [place, place], color=FIRST, linewidth=2)
            axes.plot([row.value], [place], color=FIRST, marker="o", markersize=6)
            if row.mark is not None:
                axes.plot([row.mark] * 2, [place - 0.22, place + 0.22], color=SECOND, linewidth=2)
        middle = reference or 0.0
        reach = 1.1 * max(abs(end - middle) for row in rows for end in row[1:4] if math.isfinite(end))
        axes.set_xlim(limits or (middle - (reach or 1), middle + (reach or 1)))
        axes.set_ylim(-0.5, len(rows) - 0.3)  # a label stands above its interval
        for place, row in zip(places, rows, strict=True):
            room = size[0] // 6  # letters of a label; the table beside has the whole
            label = row.label if len(row.label) <= room else f"{row.label[: room - 1]}…"
            axes.annotate(label, (0, place), (0, 7), xycoords=("axes fraction", "data"),
                          textcoords="offset points", va="bottom", color=INK)  # fmt: skip
        axes.set_yticks([])

    return _svg(name, title, size, draw, first=None, left=10, x_label=x_label)


def forest_figure(
    name: str,
    title: str,
    rows: Sequence[Interval],
    x_label: str,
    *,
    reference: float | None = 0.0,
    limits: tuple[float, float] | None = None,
) -> page.Figure:
    """A forest as wide as the page, drawn again for narrow screens; as high as its rows need."""
    wide, narrow = (
        forest(f"{name}-{width}", title, rows, (width, 60 + 40 * len(rows)), x_label, reference, limits)
        for width in (WIDE[0], NARROW[0])
    )
    return page.Figure(f"{title}.", wide, narrow, wide=True)


def reliability(name: str, title: str, curves: Mapping[str, Sequence[tuple[float, float]]], size: Size) -> str:
    """Share of right answers against confidence, bin by bin, for up to two models; the diagonal is honest."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1)
        for number, ((label, points), colour) in enumerate(zip(curves.items(), (FIRST, SECOND), strict=False)):
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=2, marker="o", markersize=4.5)
            axes.text(0.03, 0.97 - 0.09 * number, label, color=colour, va="top", transform=axes.transAxes)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)

    return _svg(name, title, size, draw, first=None, x_label="stated confidence", y_label="share right")


def decades(
    name: str,
    title: str,
    lines: Sequence[Sequence[tuple[float, float]]],
    points: Sequence[tuple[float, float, float, float]],
    law: Sequence[tuple[float, float]],
    size: Size,
    x_label: str,
) -> str:
    """Over powers of ten: runs as faint lines, their ends as points with intervals (x, y, low, high), a law."""

    def draw(axes: Axes) -> None:
        for line in lines:
            axes.plot([math.log10(x) for x, _ in line], [y for _, y in line], color=FIRST, linewidth=1, alpha=0.4)
        for x, y, low, high in points:
            axes.plot([math.log10(x)] * 2, [low, high], color=FIRST, linewidth=1)
            axes.plot([math.log10(x)], [y], color=FIRST, marker="o", markersize=5)
        if law:
            axes.plot([math.log10(x) for x, _ in law], [y for _, y in law], color=SECOND, linewidth=2)
        if points:  # curves begin far above where they end
            ends = [end for *_, low, high in points for end in (low, high)]
            margin = 0.15 * (max(ends) - min(ends) or 1)
            axes.set_ylim(min(ends) - margin, max(ends) + 3 * margin)

    return _svg(
        name, title, size, draw, first=None, x_text=lambda value: page.power(10**value), x_label=x_label,
        y_label="bits per byte",
    )  # fmt: skip


def scatter(
    name: str,
    title: str,
    points: Sequence[tuple[float, float]],
    faint: Sequence[tuple[float, float]],
    y_range: tuple[float, float],
    size: Size,
    *,
    line: Sequence[tuple[float, float]] = (),
    x_text: Callable[[float], str] = compact,
    ticks: Sequence[float] = (),
) -> str:
    """Points, others fainter, and a line of steps; what lies beyond `y_range` is not seen."""

    def draw(axes: Axes) -> None:
        for some, alpha in ((faint, 0.3), (points, 1.0)):
            if some:
                axes.plot(*zip(*some, strict=True), color=FIRST, alpha=alpha, marker="o", markersize=5, linestyle="")
        if line:
            axes.plot(*zip(*line, strict=True), color=SECOND, linewidth=2, drawstyle="steps-post")
        places = [x for x, _ in (*points, *faint, *line)]
        margin = 0.06 * (max(places) - min(places) or 1)
        axes.set_xlim(min(places) - margin, max(places) + margin)
        axes.set_ylim(y_range)

    return _svg(name, title, size, draw, first=None, x_text=x_text, whole=bool(line), ticks=ticks)


def bundle(
    name: str,
    title: str,
    lines: Sequence[tuple[Sequence[float], bool]],
    y_range: tuple[float, float],
    size: Size,
    *,
    x_text: Callable[[float], str] = compact,
    ticks: Sequence[float] = (),
) -> str:
    """Lines over the numbers from 1, some of them strong; over `ticks` they are parallel coordinates."""

    def draw(axes: Axes) -> None:
        for values, strong in sorted(lines, key=lambda one: one[1]):
            colour, alpha = (SECOND, 1.0) if strong else (FIRST, 0.35)
            axes.plot(range(1, len(values) + 1), values, color=colour, alpha=alpha, linewidth=1.5)
        axes.set_ylim(y_range)
        for place in ticks:
            axes.axvline(place, color=LINE, linewidth=1)
        axes.set_xlim(1, max(1.1, axes.dataLim.x1))
        if ticks:  # with room for the first and the last name
            axes.set_xlim(min(ticks) - 0.2, max(ticks) + 0.2)
            axes.set_yticks([])

    return _svg(name, title, size, draw, first=None, x_text=x_text, whole=True, ticks=ticks)


def trade_off(
    name: str,
    title: str,
    points: Sequence[tuple[str, float, float, float, float]],
    size: Size,
    x_label: str,
    *,
    y_label: str = "Δ bits per byte",
    logarithmic: bool = False,
) -> str:
    """Named points with intervals, (label, x, y, low, high); a logarithmic axis has its ticks at them."""
    places = [math.log2(x) if logarithmic else x for _, x, *_ in points]

    def draw(axes: Axes) -> None:
        axes.axhline(0, color=MUTED, linewidth=1)
        for place, (label, _, y, low, high) in zip(places, points, strict=True):
            axes.plot([place, place], [low, high], color=FIRST, linewidth=1, alpha=0.6)
            axes.plot([place], [y], color=FIRST, marker="o", markersize=6)
            axes.annotate(label, (place, y), (7, 4), textcoords="offset points", color=INK, annotation_clip=False)
        least, most = (min(places), max(places)) if logarithmic else (0, max(places))
        axes.set_xlim(least - 0.1 * logarithmic, most + 0.2 * (most - least))  # room for the last label

    if not logarithmic:
        return _svg(name, title, size, draw, first=None, x_label=x_label, y_label=y_label)
    return _svg(name, title, size, draw, first=None, x_label=x_label, y_label=y_label, ticks=sorted(set(places)),
                x_text=lambda place: compact(2**place))  # fmt: skip


def _svg(
    name: str,
    title: str,
    size: Size,
    draw: Callable[[Axes], None],
    *,
    first: float | None = 0,
    left: int = 46,
    x_text: Callable[[float], str] = compact,
    whole: bool = False,
    ticks: Sequence[float] = (),
    x_label: str = "",
    y_label: str = "",
) -> str:
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72))
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        if first is not None:
            axes.set_xlim(first, 1.006 * axes.dataLim.x1)  # room for half a line's width and a marker
        fewest = MaxNLocator(5 if size[0] > 400 else 4, integer=whole)
        axes.xaxis.set_major_locator(FixedLocator(ticks) if ticks else fewest)
        if len(axes.get_yticks()):
            axes.yaxis.set_major_locator(MaxNLocator(5 if size[1] > 240 else 4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: x_text(value)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        right = 88 if size[0] > 400 and name.startswith("loss") else 20
        top, bottom = 30 if y_label else 12, 50 if x_label else 34
        figure.subplots_adjust(
            left=left / size[0], right=1 - right / size[0], top=1 - top / size[1], bottom=bottom / size[1]
        )
        axes.set_xlabel(x_label, loc="right", labelpad=5)
        axes.annotate(
            y_label, (0, 1), (8 - left, 12), xycoords="axes fraction", textcoords="offset points", color=MUTED
        )
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _adapted(written.getvalue(), name, title)


def _adapted(svg: str, name: str, title: str) -> str:
    """Matplotlib's file as part of a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    for placeholder, variable in VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    view = re.search(r'viewBox="([^"]+)"', svg)
    opening = f'<svg viewBox="{view[1] if view else ""}" role="img" aria-labelledby="{name}-title"'
    opening += f' xmlns:xlink="http://www.w3.org/1999/xlink"><title id="{name}-title">{html.escape(title)}</title>'
    return re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)


def _columns(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    return [float(row["tokens"]) for row in rows], [float(row[key]) for row in rows]


def _settled(tokens: Sequence[float]) -> int:
    """Index of the first row past the first 5 % of the tokens: what comes before would flatten the rest."""
    return next((index for index, seen in enumerate(tokens) if seen >= SETTLED_SHARE * tokens[-1]), 0)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Means over `SMOOTH_SHARE` of the rows to each side, fewer at the ends; a short run is left as it is."""
    reach = round(SMOOTH_SHARE * len(values))
    windows = (values[max(0, index - reach) : index + reach + 1] for index in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _thinned(tokens: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most `POINTS` points: means of equal runs of neighbours, the last point kept."""
    stride = -(-len(values) // POINTS)
    groups = [slice(start, start + stride) for start in range(0, len(values), stride)]
    thin_tokens = [sum(tokens[group]) / len(tokens[group]) for group in groups]
    thin_values = [sum(values[group]) / len(values[group]) for group in groups]
    thin_tokens[-1], thin_values[-1] = tokens[-1], values[-1]
    return thin_tokens, thin_values


def _label_ends(axes: Axes, ends: list[tuple[str, float, float, str]], size: Size) -> None:
    """Name each curve: at its end where there is room to the right, else in a corner, never overlapping."""
    low, high = axes.get_ylim()
    line = 16 * (high - low) / (size[1] - 46)
    ends = sorted(ends, key=lambda end: end[2])
    heights = [end[2] for end in ends]
    if len(ends) == 2 and heights[1] - heights[0] < line:
        middle = sum(heights) / 2
        heights = [middle - line / 2, middle + line / 2]
    for number, ((text, tokens, value, colour), height) in enumerate(zip(ends, heights, strict=True)):
        if size[0] > 400:
            axes.annotate(
                f"{text} {value:.2f}", (tokens, height), (8, 0), textcoords="offset points", color=colour,
                va="center", annotation_clip=False,
            )  # fmt: skip
        else:
            top = 0.98 - 0.09 * (len(ends) - 1 - number)
            axes.text(0.99, top, f"{text} {value:.2f}", color=colour, ha="right", va="top", transform=axes.transAxes)
