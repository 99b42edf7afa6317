"""Where the model fails: its figures by part of the items as charts and tables, and the worst items with their texts.

In: the evaluate artifact of a run. Texts come from the run and are escaped like all others.
"""

from __future__ import annotations

from slm.core.errors import UserError
from slm.evaluate.error_analysis import Analysis, analyse
from slm.evaluate.slices import LEAST_ITEMS
from slm.report.charts import Interval, forest_figure
from slm.report.comparison import value_text
from slm.report.gather import Run, command
from slm.report.page import Figure, Sample, Section, Table

SHOWN_CHARACTERS = 700


def error_analysis(run: Run) -> Section:
    """Parts and worst items of every metric."""
    section = Section("errors", "Error analysis")
    if "evaluate" not in run.artifacts:
        section.missing = command(run.recipe, "evaluate")
        return section
    try:
        found = analyse(run.artifacts["evaluate"])
    except UserError as error:
        section.notices = [str(error)]
        return section
    section.lead = (
        "The same items by source, language, length and what else is recorded, each part with its 95 % interval beside "
        "the value of all. Parts are many and overlap: one that stands out a little does so by luck."
    )
    left_out = sum(one.parts_left_out for one in found)
    if left_out:
        section.remarks = [f"{left_out:,} parts of fewer than {LEAST_ITEMS} items are not shown."]
    for number, one in enumerate(one for one in found if one.parts):
        title = f"{one.name} by part, the upright line is all items ({value_text(one.whole)})"
        if number == 0:
            section.figures = [drawn(one, title)]
        section.tables.append(parts(one))
    section.samples = [worst(one) for one in found if one.worst]
    return section


def drawn(one: Analysis, title: str) -> Figure:
    """The parts of one metric beside its whole."""
    rows = [Interval(f"{part.kind}: {part.name}", each.value, each.low, each.high) for part, each in one.parts]
    return forest_figure("errors", title, rows, one.name, reference=one.whole.value)


def parts(one: Analysis) -> Table:
    """The parts of one metric in numbers, folded away."""
    rows = [("all", value_text(one.whole), f"{one.whole.items:,}")]
    rows += [(f"{part.kind}: {part.name}", value_text(each), f"{each.items:,}") for part, each in one.parts]
    return Table(f"{one.name} by part, in numbers", ("part", f"{one.name} [95 %]", "items"), rows, folded=True)


def worst(one: Analysis) -> list[Sample]:
    """The items with the worst values, the worst first."""
    return [
        Sample(
            f"{one.name} {item.value:.4g} · {item.key}",
            _cut(item.prompt) if item.answer else "",
            f"\n{item.answer}" if item.answer else _cut(item.prompt) or "(its text is not there any more)",
        )
        for item in one.worst
    ]


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"
