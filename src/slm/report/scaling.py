"""A ladder of runs as one page: loss against tokens and computation, the law fitted to it, and whether it foretells.

In: the runs' points, the law with its intervals, and the curves of their trainings. Out: HTML like the report's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from slm.core.console import quantity
from slm.evaluate.scaling import Rung
from slm.evaluate.statistics.power_law import Ladder, Point
from slm.report.charts import NARROW, WIDE, decades
from slm.report.html import page
from slm.report.page import Fact, Figure, Section, Table, compact, percent, power

Curves = Mapping[str, Sequence[tuple[float, float]]]
"""Of each run (tokens, bits per byte), as measured while training."""
MEANING = {
    "E": "what no size removes",
    "A": "adds at 10⁶ parameters, or 10¹⁵ FLOPs",
    "a": "exponent of parameters, or of FLOPs",
    "B": "adds at 10⁶ tokens",
    "b": "exponent of tokens",
}
COLUMNS = (
    "run", "parameters", "tokens", "tokens per parameter", "FLOPs", "bits per byte [95 %]", "by the law", "off by",
)  # fmt: skip


def scaling_page(rungs: Sequence[Rung], found: Ladder, curves: Curves) -> str:
    """The page of `slm scaling`."""
    title = f"{len(rungs)} runs from {rungs[0].name} to {rungs[-1].name}"
    facts = [
        Fact("exponent", f"{found.fit.constants['a']:.3f}", _interval(found.intervals["a"])),
        Fact("irreducible", f"{found.fit.constants['E']:.3f}", f"{_interval(found.intervals['E'])} bits per byte"),
        Fact("off by", percent(float(np.abs(found.residuals).max()), 2), "at most, of the runs fitted"),
        Fact("largest run foretold", f"{found.foretold:.3f}", f"was {rungs[found.held_out].bits.value:.3f}"),
    ]
    return page(title, "scaling law", f"{formula(found)}.", facts, [
        drawn(rungs, found, curves), check(rungs, found), law(found), table(rungs, found),
    ])  # fmt: skip


def drawn(rungs: Sequence[Rung], found: Ladder, curves: Curves) -> Section:
    """Loss against computation and against tokens."""
    section = Section("curves", "Curves")
    section.lead = (
        "Points are the runs with their intervals over held-out documents, faint lines what was measured while they "
        "trained, on fewer documents. The strong line is the law: at the best split of computation into parameters "
        "and tokens where it knows both."
    )
    per_token = {one.name: one.point.flops / one.point.tokens for one in rungs}
    for key, title, scale, line in (
        ("flops", "Bits per byte against FLOPs", per_token, frontier(rungs, found)),
        ("tokens", "Bits per byte against tokens", dict.fromkeys(per_token, 1.0), []),
    ):
        lines = [[(x * scale[name], y) for x, y in curve] for name, curve in curves.items() if curve]
        points = [(one.point.tokens * scale[one.name], one.bits.value, one.bits.low, one.bits.high) for one in rungs]
        wide, narrow = (
            decades(f"{key}-{size[0]}", title, lines, points, line, size, title.rpartition(" ")[2])
            for size in (WIDE, NARROW)
        )
        section.figures.append(Figure(f"{title}.", wide, narrow, wide=True))
    return section


def frontier(rungs: Sequence[Rung], found: Ladder, places: int = 40) -> list[tuple[float, float]]:
    """The law over the computation of the ladder, its range as much again upwards."""
    flops = [one.point.flops for one in rungs]
    reach = np.geomspace(min(flops), max(flops) ** 1.25 / min(flops) ** 0.25, places)
    if found.fit.law == "computation":
        losses = found.fit.predict([Point(1.0, 1.0, value, 0.0) for value in reach])
        return list(zip(reach.tolist(), losses.tolist(), strict=True))
    # 6 FLOPs a parameter and token is exact enough for a line; runs stand at what was counted
    parameters = [one.point.parameters for one in rungs]
    sizes = np.geomspace(min(parameters) / 4, max(parameters) * 16, 200)
    best = [min(found.fit.predict([Point(size, value / (6 * size), value, 0.0) for size in sizes])) for value in reach]
    return list(zip(reach.tolist(), map(float, best), strict=True))


def check(rungs: Sequence[Rung], found: Ladder) -> Section:
    """Whether the smaller runs foretold the largest."""
    section = Section("check", "Held-out run")
    one, (low, high) = rungs[found.held_out], found.foretold_interval
    inside = low <= one.bits.value <= high
    section.lead = (
        f"Without {one.name}, which took most computation, the law foretells {found.foretold:.3f} for it "
        f"[{low:.3f}, {high:.3f}]; it has {one.bits.value:.3f}. "
        + ("That is inside." if inside else "That is outside: do not extrapolate from these runs.")
    )
    return section


def law(found: Ladder) -> Section:
    """The constants."""
    section = Section("law", "Law")
    section.lead = (
        f"{formula(found)}, by least relative error. Intervals hold scatter about the law, such as of seeds; that the "
        "law may be wrong they do not hold."
    )
    rows = [
        (name, f"{value:.4g}", _interval(found.intervals[name]), MEANING[name])
        for name, value in found.fit.constants.items()
    ]
    section.tables = [Table("Constants", ("constant", "value", "95 %", "meaning"), rows)]
    return section


def table(rungs: Sequence[Rung], found: Ladder) -> Section:
    """All runs."""
    section = Section("runs", "Runs")
    section.tables = [Table("Runs", COLUMNS, rows(rungs, found))]
    return section


def rows(rungs: Sequence[Rung], found: Ladder) -> list[tuple[str, ...]]:
    """A line for each run, for the page and the terminal."""
    losses = found.fit.predict([one.point for one in rungs])
    return [
        (
            one.name, compact(one.point.parameters), compact(one.point.tokens),
            quantity(one.point.tokens / one.point.parameters), power(one.point.flops),
            f"{one.bits.value:.4f} [{one.bits.low:.3f}, {one.bits.high:.3f}]", f"{loss:.4f}", f"{rest:+.2%}",
        )
        for one, loss, rest in zip(rungs, losses, found.residuals, strict=True)
    ]  # fmt: skip


def formula(found: Ladder) -> str:
    """The law with its numbers."""
    constants = {name: f"{value:.3g}" for name, value in found.fit.constants.items()}
    if found.fit.law == "computation":
        return "bits per byte = {E} + {A} · (FLOPs / 10¹⁵)^−{a}".format(**constants)
    return "bits per byte = {E} + {A} · (parameters / 10⁶)^−{a} + {B} · (tokens / 10⁶)^−{b}".format(**constants)


def _interval(ends: tuple[float, float]) -> str:
    return f"[{ends[0]:.3g}, {ends[1]:.3g}]"
