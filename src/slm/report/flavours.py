"""The forms of one model on a page: what each costs in quality against its size and against its speed.

In: the flavours that `slm.core.flavours` reads from manifests. Out: a self-contained page. A point without an
interval, or without a speed, is in the table only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slm.core.console import size
from slm.core.flavours import COLUMNS, Flavour, cells
from slm.report.charts import NARROW, WIDE, trade_off
from slm.report.html import page
from slm.report.page import Fact, Figure, Section, Table

Point = tuple[str, float, float, float, float]


def flavours_page(found: Sequence[Flavour]) -> str:
    """The page of `slm compare` over flavours."""
    judged = [one for one in found if one.cost is not None]
    summary = f"{len(found)} forms of a model, {len(judged)} of them measured on held-out text beside float32."
    return page("Flavours", "flavours", summary, headline(found), [trade_offs(found), everything(found), tasks(found)])


def headline(found: Sequence[Flavour]) -> list[Fact]:
    """The smallest and the fastest."""
    smallest = min(found, key=lambda one: one.size_bytes)
    facts = [Fact("smallest", size(smallest.size_bytes), smallest.name)]
    timed = [(one.timed["decode_tokens_per_second"], one.name) for one in found if one.timed is not None]
    if timed:
        speed, name = max(timed)
        facts.append(Fact("fastest answer", f"{speed:,.0f} tokens/s", name))
    return facts


def trade_offs(found: Sequence[Flavour]) -> Section:
    """Cost against size and against speed."""
    section = Section("trade-offs", "Quality against size and speed")
    section.lead = (
        "Up is what was lost: the rise in bits per byte of held-out text beside the model in float32, with its 95 % "
        "interval over documents. Paired, so what is hard for both does not widen it."
    )
    sizes = [(one.name, one.size_bytes / 1e6, *_cost(one)) for one in found if one.cost is not None]
    speeds = [
        (one.name, float(one.timed["decode_tokens_per_second"]), *_cost(one))
        for one in found
        if one.cost is not None and one.timed is not None
    ]
    section.figures = _figure("size", "Rise in bits per byte against the size of the file in MB", "MB", sizes)
    section.figures += _figure(
        "speed", "Rise in bits per byte against tokens a second of an answer", "tokens/s", speeds
    )
    if not section.figures:
        section.lead = "Nothing was measured; set export.quality.documents and export.timing.turns."
    return section


def everything(found: Sequence[Flavour]) -> Section:
    """The table."""
    section = Section("table", "All figures")
    rows = [(*cells(one), _perplexity(one)) for one in found]
    section.tables = [
        Table("Every form with what was measured of it", (*COLUMNS, "Δ perplexity by token [95 %]"), rows)
    ]
    reasons = {one.name: str(one.speed["unknown"]) for one in found if one.speed and "unknown" in one.speed}
    section.remarks = [f"{name} was not timed: {reason}" for name, reason in reasons.items()]
    return section


def tasks(found: Sequence[Flavour]) -> Section:
    """Differences on choice tasks, item by item."""
    section = Section("tasks", "Tasks beside float32")
    rows = [
        (one.name, f"{row['task']}: {row['metric']}", f"{row['value']:.3f}", _difference(row), f"{row['items']:,}")
        for one in found
        for row in one.tasks
    ]
    section.tables = (
        [Table("Choice tasks, item by item", ("flavour", "task", "value", "difference [95 %]", "items"), rows)]
        if rows
        else []
    )
    section.lead = "" if rows else "No choice task was asked; name some in evaluate.tasks and set export.quality.tasks."
    return section


def _perplexity(one: Flavour) -> str:
    if one.cost is None:
        return "-"
    low, high = one.cost["perplexity_interval_95"]
    return f"{one.cost['perplexity_increase']:+.4f} [{low:+.4f}, {high:+.4f}]"


def _difference(row: Mapping[str, Any]) -> str:
    low, high = row["interval_95"]
    return f"{row['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"


def _cost(one: Flavour) -> tuple[float, float, float]:
    assert one.cost is not None
    low, high = one.cost["interval_95"]
    return float(one.cost["increase"]), float(low), float(high)


def _figure(name: str, title: str, x_label: str, points: Sequence[Point]) -> list[Figure]:
    if not points:
        return []
    wide, narrow = (trade_off(f"{name}-{shape[0]}", title, points, shape, x_label) for shape in (WIDE, NARROW))
    return [Figure(f"{title}.", wide, narrow, wide=True)]
