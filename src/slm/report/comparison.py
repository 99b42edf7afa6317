"""Two runs side by side as one page: what a `Comparison` says, in the layout and style of the report.

Every number stands with its interval, and a run is called better only where the corrected p value says so: no bold
best. Texts come from the runs and are escaped like all others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from slm.core.artifact import Artifact
from slm.evaluate.comparison import Change, Comparison, Finding, Prospect
from slm.evaluate.measurements import name_of
from slm.evaluate.stage import RESULTS
from slm.evaluate.statistics.intervals import Estimate
from slm.evaluate.statistics.paired import Difference
from slm.report.calibration import calibration
from slm.report.charts import Interval, forest_figure
from slm.report.gather import Run, command
from slm.report.html import page
from slm.report.page import Fact, Figure, Sample, Section, Table
from slm.report.stages import link

SHOWN_CHARACTERS = 1_200
ROWS_OF_A_CHART = 14
SHOWN_REGRESSIONS = 3
"""In the report of a run; the page of `slm compare` has more."""


def comparison_page(a: Artifact, b: Artifact, prospects: Sequence[Prospect], found: Comparison) -> str:
    """The page of `slm compare`."""
    title = f"{name_of(a)} and {name_of(b)}"
    better = [finding for finding in found.findings if finding.verdict.endswith("better")]
    summary = (
        f"A is {a.path}, B is {b.path}. Of {len(found.findings)} "
        f"metric{'s' if len(found.findings) != 1 else ''}, {len(better)} "
        "tell them apart at 5 % after Holm's correction."
    )
    return page(title, "comparison", summary, headline(found), [
        differences(found), before(prospects), parts(found), calibration({"A": results(a), "B": results(b)}),
        *changed(found.changes), inputs(a, b),
    ])  # fmt: skip


def beside(run: Run) -> Section:
    """The comparison with the run that `report.compare_with` names, in one section of that run's report."""
    if run.beside is None:
        missing = command(run.recipe, "report", "report.compare_with=runs/OTHER")
        return Section("comparison", "Comparison", missing=missing)
    section = differences(run.beside)
    section.key, section.title = "comparison", f"Beside {run.beside_name}"
    section.lead = f"A is {run.beside_name}, B is this run. {section.lead}"
    folder = run.recipe.folder("evaluate").parent
    section.remarks.append(
        f"By part of the items, what could be found at all, and what got better: slm compare "
        f"{run.recipe.report.compare_with} {folder}"
    )
    (worse, _) = changed(run.beside.changes)
    section.samples = worse.samples[:SHOWN_REGRESSIONS]
    return section


def headline(found: Comparison) -> list[Fact]:
    """The first metric in both, and their difference."""
    first = found.findings[0]
    return [
        Fact(f"B − A: {first.name}", signed(first.difference.value, first.difference), interval_text(first.difference)),
        Fact("A", *_split(first.a)),
        Fact("B", *_split(first.b)),
        Fact("verdict", first.verdict, f"p {p_text(first.corrected_p)}, corrected"),
    ]


def differences(found: Comparison) -> Section:
    """All metrics with their intervals."""
    section = Section("differences", "Differences")
    section.lead = (
        "Paired on identical items: intervals are 95 % by bootstrap over items (over documents where they share one), "
        "p values are two-sided, by swapping the runs at random item by item."
    )
    section.remarks = [f"Not compared: {name}." for name in found.only_one]
    rows = [(one.name, one.difference, one.detectable) for one in found.findings]
    section.figures = _forest(
        "metrics", "Difference B − A in units of the smallest detectable one", "smallest detectable differences", rows
    )
    section.tables = [Table("Every metric", COLUMNS, [_cells(one) for one in found.findings])]
    return section


COLUMNS = ("metric", "verdict", "B − A [95 %]", "p, corrected", "A [95 %]", "B [95 %]", "items", "p", "detectable")
"""What was found comes first: narrow screens cut off the rest."""


def before(prospects: Sequence[Prospect]) -> Section:
    """What could be found."""
    section = Section("before", "What could be found")
    section.lead = (
        "Computed before the differences, from how much the pairs scatter: the smallest true difference that the test "
        "finds four times in five at 5 %. Where a difference that matters is smaller, not telling the runs apart says "
        "nothing."
    )
    rows = [(one.name, f"{one.items:,}", detectable_text(one.detectable)) for one in prospects]
    section.tables = [Table("Before the comparison", ("metric", "items", "smallest detectable difference"), rows)]
    return section


def parts(found: Comparison) -> Section:
    """Where they differ."""
    section = Section("slices", "By part of the items")
    section.lead = (
        "The same items by source, language, length and what else is recorded; p values corrected together by "
        "Benjamini and Hochberg."
    )
    if found.parts_left_out:
        section.remarks.append(f"{found.parts_left_out} parts of fewer than 8 items are not shown.")
    for name in dict.fromkeys(one.name for one in found.parts):
        of_metric = [one for one in found.parts if one.name == name]
        rows = [(f"{one.part.kind}: {one.part.name}", one) for one in of_metric if one.part is not None]
        caption = f"{name}: difference B − A by part, with 95 % intervals"
        drawn = [(label, one.difference, 1.0) for label, one in rows[:ROWS_OF_A_CHART]]
        section.figures += _forest(f"parts-{len(section.figures)}", caption, "B − A", drawn)
        columns, told = ("part", *COLUMNS[1:]), [(label, *_cells(one)[1:]) for label, one in rows]
        section.tables.append(Table(f"{name} by part, in numbers", columns, told, folded=True))
    if not found.parts:
        section.lead = "The items fall into no parts that are large enough."
    return section


def changed(changes: Sequence[Change]) -> list[Section]:
    """Items that got worse and better by most, with their texts."""
    sections = []
    for key, title, chosen in (
        ("worse", "Worse in B", [one for one in changes if one.gain < 0]),
        ("better", "Better in B", [one for one in changes if one.gain > 0]),
    ):
        section = Section(key, title)
        section.lead = "" if chosen else "No item."
        for one in chosen:
            label = f"{one.name} · {one.key} · {one.a:.4g} → {one.b:.4g}"
            if one.a_text or one.b_text:
                prompt = _cut(one.prompt)
                section.samples.append(
                    [Sample(f"A: {label}", prompt, f"\n{one.a_text}"), Sample(f"B: {label}", prompt, f"\n{one.b_text}")]
                )
            else:
                section.samples.append([Sample(label, "", _cut(one.prompt) or "(its text is not there any more)")])
        sections.append(section)
    return sections


def inputs(a: Artifact, b: Artifact) -> Section:
    """Which artifacts were compared."""
    section = Section("inputs", "What was compared")
    section.links = [link(a), link(b)]
    return section


def detectable_text(value: float) -> str:
    """The smallest difference that can be found; where no pair differs, how much they scatter is not known."""
    return "none: too few items" if math.isinf(value) else f"{value:.2g}" if value else "unknown: no item differs"


def printed_rows(found: Sequence[Finding]) -> list[tuple[str, ...]]:
    """The table of metrics for the terminal."""
    return [_cells(one) for one in found]


def results(evaluation: Artifact) -> Mapping[str, Any]:
    """What an evaluation says as a whole."""
    return dict(json.loads(evaluation.file(RESULTS).read_text(encoding="utf-8")))


def value_text(found: Estimate) -> str:
    """A value with its interval: 1.397 [1.312, 1.481]."""
    return f"{_fixed(found.value, found)} {interval_text(found)}"


def interval_text(found: Estimate | Difference) -> str:
    """`[1.312, 1.481]`, in as many digits as the standard error allows."""
    return f"[{_fixed(found.low, found)},\u00a0{_fixed(found.high, found)}]"


def signed(value: float, found: Difference) -> str:
    """A difference with its sign."""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{_fixed(abs(value), found)}"


def p_text(p: float) -> str:
    """A p value in two digits; below what 10,000 swaps can tell, a bound."""
    return "< 0.0002" if p < 0.0002 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _cells(one: Finding) -> tuple[str, ...]:
    gap = one.difference
    return (
        one.name, one.verdict, f"{signed(gap.value, gap)} {interval_text(gap)}", p_text(one.corrected_p),
        value_text(one.a), value_text(one.b), f"{gap.items:,}", p_text(gap.p_value), detectable_text(one.detectable),
    )  # fmt: skip


def _split(found: Estimate) -> tuple[str, str]:
    return _fixed(found.value, found), interval_text(found)


def _fixed(value: float, found: Estimate | Difference) -> str:
    error = found.standard_error
    digits = 3 if not error or not math.isfinite(error) else min(6, max(2, 1 - math.floor(math.log10(error))))
    return f"{value:.{digits}f}".replace("-", "−")


def _forest(name: str, title: str, x_label: str, rows: Sequence[tuple[str, Difference, float]]) -> list[Figure]:
    drawn = [
        Interval(label, gap.value / unit, gap.low / unit, gap.high / unit)
        for label, gap, unit in rows
        if unit and math.isfinite(unit)
    ]
    if not any((row.value, row.low, row.high) != (0, 0, 0) for row in drawn):
        return []
    return [forest_figure(name, title, drawn, x_label)]


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"
