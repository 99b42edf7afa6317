"""A search for settings as one page: what finalists are worth over seeds, how the search went, what settings did.

In: the trials, the finalists with their intervals, and the commands that train them. Out: HTML like the report's, and a
picture. The lowest trial is drawn, but a claim is made of finalists alone, which were trained again with other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from slm.core.console import duration
from slm.evaluate.trials import Finalist, Trial, best
from slm.report.charts import NARROW, SMALL, WIDE, Interval, Size, bundle, compact, forest_figure, scatter
from slm.report.html import page
from slm.report.page import Bar, Code, Fact, Figure, Section, Table, percent, power
from slm.report.png import Line, Panel, draw

FINALIST_COLUMNS = (
    "trial", "less the recipe as it is [95 % over seeds]", "p, Holm", "bits per byte over seeds [95 %]",
    "in the search", "measured so with other seeds",
)  # fmt: skip
ABOVE = 4.0
"""Charts reach so many times as far above the lowest trial as the median of the finished ones lies."""
STRONG = 3
CAVEAT = (
    "Shares (PED-ANOVA) of what parts the best tenth of the trials from all of them, within the ranges searched: they "
    "say neither which way to go nor what a setting does beyond its range, settings that act only together are "
    "underrated, and few trials give a rough picture."
)


@dataclass(frozen=True, slots=True)
class Search:
    """What came of a search."""

    name: str
    keys: Sequence[str]
    log_keys: Sequence[str]
    """Those drawn over orders of magnitude."""
    trials: Sequence[Trial]
    importances: Mapping[str, float]
    finalists: Sequence[Finalist]
    """The lowest mean over seeds first."""
    commands: Sequence[str]
    """What trains each finalist."""


def sweep_page(found: Search) -> str:
    """The page of `slm sweep`."""
    return page(f"{found.name}: {len(found.trials)} trials", "search for settings", verdict(found), headline(found), [
        finals(found), course(found), settings(found), everything(found),
    ])  # fmt: skip


def verdict(found: Search) -> str:
    """What may be claimed."""
    if not found.finalists:
        return (
            "No trial was trained again with other seeds, so nothing is claimed: the lowest of many noisy values is "
            "lower than what its settings are worth."
        )
    told, first = [one for one in found.finalists if one.better], found.finalists[0]
    words = f"{_name(first.trial)} has the lowest mean over {first.over_seeds.seeds} seeds, {_gap(first)} bits per byte"
    luck = (
        f"In the search it had {first.trial.value:.4f}, with other seeds the same measurement has {first.again:.4f} on "
        "average: the lowest of many draws is partly luck (the winner's curse)."
    )
    if not told:
        return f"No finalist is better than the recipe as it is at 5 %: {words} beside it. {luck}"
    return (
        f"{len(told)} of {len(found.finalists)} finalists are better than the recipe as it is at 5 %, corrected for "
        f"their number: {words} beside it. {luck}"
    )


def headline(found: Search) -> list[Fact]:
    """The figures that one wants first."""
    states = [one.state for one in found.trials]
    facts = [
        Fact("trials", str(len(states)), counted(found.trials)),
        Fact("training", duration(sum(one.seconds for one in found.trials)), "all trials together"),
        Fact("FLOPs", power(sum(one.flops for one in found.trials)), "all trials together"),
    ]
    if found.finalists:
        first = found.finalists[0].difference
        note = f"bits per byte, 95 % over seeds {first.low:+.4f} to {first.high:+.4f}"
        facts.insert(0, Fact("beside the recipe", f"{first.value:+.4f}", note))
    return facts


def counted(trials: Sequence[Trial]) -> str:
    """How many trials came to which end."""
    states = [one.state for one in trials]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))


def finals(found: Search) -> Section:
    """The finalists beside the recipe."""
    section = Section("finalists", "Finalists")
    section.lead = (
        "The lowest trials trained again, as was the recipe without changes, with seeds that the search did not see, "
        "and compared seed by seed on the same held-out documents. These documents also chose the finalists."
    )
    if not found.finalists:
        return section
    drawn = [Interval(_name(one.trial), *_ends(one)) for one in found.finalists]
    if any(math.isfinite(end) and end for row in drawn for end in (row.value, row.low, row.high)):
        title = "Bits per byte less those of the recipe as it is, with 95 % intervals over seeds"
        section.figures = [forest_figure("finalists", title, drawn, "bits per byte")]
    section.tables = [Table("Every finalist", FINALIST_COLUMNS, finalist_rows(found))]
    section.codes = [
        Code(f"{_name(one.trial)} as a run of its own", line)
        for one, line in zip(found.finalists, found.commands, strict=True)
    ]
    return section


def finalist_rows(found: Search) -> list[tuple[str, ...]]:
    """A line for each finalist, for the page and the terminal."""
    return [
        (
            _name(one.trial), _gap(one), f"{one.corrected_p:.2g}",
            f"{one.over_seeds.value:.4f} [{one.over_seeds.low:.4f}, {one.over_seeds.high:.4f}]",
            f"{one.trial.value:.4f}", f"{one.again:.4f}",
        )
        for one in found.finalists
    ]  # fmt: skip


def course(found: Search) -> Section:
    """How the search went."""
    section, heights = Section("course", "Course of the search"), reach(found)
    section.lead = "Faint points ended early, where they stood then; the line is the lowest finished trial so far."
    ended = [(float(one.number), last(one)) for one in found.trials if one.state == "ended early"]
    done = [(float(one.number), last(one)) for one in found.trials if one.state == "finished"]
    title = "Held-out bits per byte by trial"
    line = lowest_so_far(found.trials)
    wide, narrow = (
        scatter(f"history-{size[0]}", title, done, ended, heights, size, line=line) for size in (WIDE, NARROW)
    )
    section.figures.append(Figure(f"{title}.", wide, narrow, wide=True))
    strong = {one.number for one in best(found.trials, STRONG)}
    curves = [(list(one.measured.values()), one.number in strong) for one in found.trials if one.measured]
    title = f"Held-out bits per byte by measurement; the {STRONG} lowest trials stand out"
    wide, narrow = (bundle(f"curves-{size[0]}", title, curves, heights, size) for size in (WIDE, NARROW))
    section.figures.append(Figure(f"{title}.", wide, narrow, wide=True))
    return section


def settings(found: Search) -> Section:
    """What settings did."""
    section, heights = Section("settings", "Settings"), reach(found)
    for number, key in enumerate(found.keys):
        place, text, ticks = _axis(found, key)
        points = [(place(one.settings[key]), last(one)) for one in found.trials if one.state == "finished"]
        faint = [(place(one.settings[key]), last(one)) for one in found.trials if one.state == "ended early"]
        drawn = scatter(f"slice-{number}", f"Bits per byte by {key}", points, faint, heights, SMALL, x_text=text,
                        ticks=ticks)  # fmt: skip
        section.figures.append(Figure(f"Bits per byte by {key}.", drawn))
    if len(found.keys) > 1:
        title = f"Settings of finished trials from low to high, and bits per byte; the {STRONG} lowest stand out"
        wide, narrow = (_parallel(found, title, size) for size in (WIDE, NARROW))
        section.figures.append(Figure(f"{title}.", wide, narrow, wide=True))
    if found.importances:
        section.lead = CAVEAT
        section.bars_caption = "Importance of settings"
        section.bars = [Bar(key, percent(share, 0), share) for key, share in found.importances.items()]
    return section


def everything(found: Search) -> Section:
    """All trials."""
    section = Section("trials", "Trials")
    rows = [
        (
            str(one.number), one.state, f"{last(one):.4f}" if one.measured else "-",
            *(_text(one.settings[key]) if key in one.settings else "-" for key in found.keys),
            power(one.flops) if one.flops else "-", duration(one.seconds), one.reason,
        )
        for one in found.trials
    ]  # fmt: skip
    columns = ("trial", "state", "bits per byte, last", *found.keys, "FLOPs", "time", "reason")
    section.tables = [Table("Every trial", columns, rows)]
    return section


def picture(path: Path, found: Search) -> None:
    """The course of the search as a PNG."""
    done = [one for one in found.trials if one.state == "finished"]
    ended = [one for one in found.trials if one.state == "ended early"]
    line = lowest_so_far(found.trials)
    history = Panel(
        f"{found.name}: trials", "trial", "held-out bits per byte",
        [
            Line([one.number for one in done], [last(one) for one in done], "finished", dots=True),
            Line([one.number for one in ended], [last(one) for one in ended], "ended early", faint=True, dots=True),
            Line([x for x, _ in line], [y for _, y in line], "lowest so far"),
        ],
        log_x=False, y_range=reach(found),
    )  # fmt: skip
    draw(path, [[history]])


def lowest_so_far(trials: Sequence[Trial]) -> list[tuple[float, float]]:
    """The lowest value of the finished trials up to each of them."""
    found: list[tuple[float, float]] = []
    for one in trials:
        if one.value is not None:
            found.append((float(one.number), min(one.value, found[-1][1] if found else math.inf)))
    return found


def reach(found: Search) -> tuple[float, float]:
    """Heights that charts show: what diverged would flatten the rest."""
    values = [one.value for one in found.trials if one.value is not None]
    low, middle = min(values), median(values)
    high = min(max(values), low + ABOVE * (middle - low)) if len(values) > 2 else max(values)
    margin = 0.08 * (high - low) or 0.01 * abs(low)
    return low - margin, high + 3 * margin


def last(one: Trial) -> float:
    """The last measurement of a trial."""
    return one.measured[max(one.measured)]


def _parallel(found: Search, title: str, size: Size) -> str:
    axes = [(key, *_axis(found, key)) for key in found.keys]
    done = [one for one in found.trials if one.state == "finished"]
    columns = [_between([place(one.settings[key]) for one in done]) for key, place, *_ in axes]
    columns.append(_between([last(one) for one in done]))
    strong = {one.number for one in best(done, STRONG)}
    lines = [([column[row] for column in columns], one.number in strong) for row, one in enumerate(done)]
    names = [*(key.rpartition(".")[2] for key in found.keys), "bits per byte"]
    ticks = list(range(1, len(names) + 1))
    return bundle(
        f"parallel-{size[0]}", title, lines, (-0.05, 1.05), size, ticks=ticks, x_text=lambda x: names[round(x) - 1]
    )


def _axis(found: Search, key: str) -> tuple[Any, Any, Sequence[float]]:
    """Where a setting stands on an axis, what is written there, and where."""
    values = [one.settings[key] for one in found.trials if key in one.settings]
    if key in found.log_keys:
        return (lambda value: math.log10(value)), (lambda x: compact(10**x)), ()
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return float, compact, ()
    names = sorted(map(str, dict.fromkeys(values)))
    return (lambda value: float(names.index(str(value)))), (lambda x: names[round(x)]), range(len(names))


def _between(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]


def _ends(one: Finalist) -> tuple[float, float, float]:
    return one.difference.value, one.difference.low, one.difference.high


def _gap(one: Finalist) -> str:
    value, low, high = _ends(one)
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _name(trial: Trial) -> str:
    return f"trial-{trial.number:04d}"
