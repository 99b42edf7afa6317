"""What each change of a recipe is worth, as one page: differences from the base with their intervals over seeds.

In: the base and its changes, compared. Out: HTML like the report's, and the rows of the terminal's table.
"""

from __future__ import annotations

import math

from slm.evaluate.ablation import Ablation, Effect
from slm.evaluate.statistics.power import LEVEL
from slm.report.charts import Interval, forest_figure
from slm.report.html import page
from slm.report.page import Fact, Section, Table

COLUMNS = (
    "change", "metric", "base", "changed", "difference [95 % over seeds]", "test", "p, Holm", "verdict",
)  # fmt: skip


def ablation_page(found: Ablation) -> str:
    """The page of `slm ablation`."""
    seeds = len(next(iter(found.base.seeds.values())))
    told = [one for one in found.effects if one.corrected_p <= LEVEL]
    count = len({one.change for one in found.effects})
    title = f"{count} change{'s' if count != 1 else ''} of {found.base.runs[0]}"
    summary = (
        f"Of {len(found.effects)} differences, {len(told)} are told from chance at {LEVEL:.0%} after Holm's correction."
    )
    facts = [Fact(name, f"{sum(values.values()) / len(values):.4f}", f"the base, mean over {len(values)} seeds")
             for name, values in found.base.seeds.items()]  # fmt: skip
    section = Section("changes", "Changes")
    section.lead = (
        f"Each change alone against the base, over {seeds} seeds: means, 95 % intervals of the difference by Student's "
        "t, p values corrected for their number. With so few seeds an interval is wide: that a change is not told from "
        "chance does not show that it does nothing."
    )
    for number, metric in enumerate(dict.fromkeys(one.metric for one in found.effects)):
        drawn = [
            Interval(one.change, one.difference.value, one.difference.low, one.difference.high)
            for one in found.effects
            if one.metric == metric
        ]
        if any(math.isfinite(end) and end for row in drawn for end in (row.value, row.low, row.high)):
            section.figures.append(
                forest_figure(f"changes-{number}", f"{metric}: difference from the base", drawn, metric)
            )
    section.tables = [Table("Every change", COLUMNS, rows(found))]
    return page(title, "ablation", summary, facts[:4], [section])


def rows(found: Ablation) -> list[tuple[str, ...]]:
    """A line for each change and metric."""
    return [
        (
            one.change, one.metric, f"{one.base.value:.4f}", f"{one.changed.value:.4f}",
            f"{one.difference.value:+.4f} [{one.difference.low:+.4f}, {one.difference.high:+.4f}]",
            "seed by seed" if one.difference.paired else "Welch", f"{one.corrected_p:.2g}", verdict(one),
        )
        for one in found.effects
    ]  # fmt: skip


def verdict(one: Effect) -> str:
    """What may be said of a change."""
    word = "not told from chance" if one.corrected_p > LEVEL else "worse"
    if word == "worse" and (one.difference.value < 0) == one.lower_is_better:
        word = "better"
    return word if one.num_changed == 1 else f"{word}; {one.num_changed} things at once"
