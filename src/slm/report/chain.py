"""What each step of a chain was worth: a row a run, and one for each compressed variant of the last.

In: the evaluations of the runs in order, and what compressing the last one cost. Out: the rows of the terminal's table
and a page like the report's. Differences are paired on the same held-out documents, with 95 % intervals by bootstrap
over documents; the teacher has no difference, and a variant is compared with what it was made from, over as many of the
documents as `compress` measured it on: it has that difference alone, for its own bits per byte are of other text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slm.core.artifact import Artifact, open_artifact
from slm.core.console import size
from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.evaluate.measurements import BITS_PER_BYTE, Measurement, matched, read_measurements
from slm.evaluate.statistics.intervals import estimate
from slm.evaluate.statistics.paired import difference
from slm.report.charts import Interval, forest_figure
from slm.report.html import page
from slm.report.page import Fact, Section, Table

COLUMNS = ("step", "bits per byte [95 %]", "against the step before [95 %]", "KL", "weights")
TEACHER = "the teacher"


@dataclass(frozen=True, slots=True)
class Gap:
    """A paired difference with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """A step; `kl` in nats a token from the step before, where it was measured."""

    name: str
    bits_per_byte: float | None
    interval: tuple[float, float] | None
    gap: Gap | None
    kl: float | None
    size_bytes: int


def rows_of(teacher: Artifact | None, runs: Mapping[str, Artifact], compressed: Artifact | None) -> list[Row]:
    """A row for each run, the teacher first where it was measured on the same documents, then the variants."""
    found: list[Row] = []
    before: Measurement | None = None
    of_steps = {name: read_measurements(one)[BITS_PER_BYTE] for name, one in runs.items()}
    if teacher is not None:
        (name, first), *_ = of_steps.items()
        taught_by = read_measurements(teacher)[BITS_PER_BYTE]
        try:
            found.append(_row(TEACHER, matched(first, taught_by, (name, TEACHER)), None, teacher))
        except UserError:
            found = []  # measured on other documents, so there is nothing to set beside
    for name, measured in of_steps.items():
        mine = matched(before, measured, (found[-1].name, name)) if before is not None else measured
        found.append(_row(name, mine, before, runs[name]))
        before = mine
    for name, cost in (compressed.counts["variants"] if compressed is not None else {}).items():
        gap = Gap(cost["increase"], *cost["interval_95"])
        found.append(Row(name, None, None, gap, cost["mean_kl"], int(cost["size_bytes"])))
    return found


def _row(name: str, measured: Measurement, before: Measurement | None, evaluation: Artifact) -> Row:
    numbers, seed = (measured.numerators_N, measured.denominators_N), derive(0, "chain", name)
    value = estimate(*numbers, seed=seed)
    gap = None
    if before is not None:
        found = difference(before.numerators_N, *numbers, seed=seed)
        gap = Gap(found.value, found.low, found.high)
    return Row(name, value.value, (value.low, value.high), gap, None, _weights_bytes(evaluation))


def _weights_bytes(evaluation: Artifact) -> int:
    """Size of the weights that were evaluated, without what the optimizer remembers."""
    train = open_artifact(evaluation.path / evaluation.manifest["parents"]["train"]["path"], "train")
    files = train.manifest["files"].items()
    return sum(int(record["size_bytes"]) for name, record in files if name.startswith("model-"))


def told(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The rows in words."""
    return [
        (
            row.name,
            f"{row.bits_per_byte:.4f} [{row.interval[0]:.3f}, {row.interval[1]:.3f}]" if row.interval else "–",
            f"{row.gap.value:+.4f} [{row.gap.low:+.4f}, {row.gap.high:+.4f}]" if row.gap else "–",
            f"{row.kl:.4f}" if row.kl is not None else "–",
            size(row.size_bytes),
        )
        for row in rows
    ]


def chain_page(name: str, rows: Sequence[Row]) -> str:
    """The page of `slm chain`."""
    runs, last = [row for row in rows if row.name != TEACHER and row.interval], rows[-1]
    summary = (
        f"From {runs[0].name} to {runs[-1].name}: {runs[0].bits_per_byte:.4f} to {runs[-1].bits_per_byte:.4f} bits per "
        f"byte of held-out text; {size(runs[0].size_bytes)} to {size(last.size_bytes)} of weights"
    )
    summary += f", {last.gap.value:+.4f} bits per byte by {last.name}." if last.interval is None and last.gap else "."
    section = Section("steps", "Step by step")
    section.lead = (
        "Each step beside the one before, on the same held-out documents: 95 % intervals by bootstrap over documents, "
        "paired. A compressed variant stands beside the last run, from which it was made, on the documents that it was "
        "measured on, with the KL divergence of its next-token distributions, in nats."
    )
    drawn = [Interval(row.name, row.gap.value, row.gap.low, row.gap.high) for row in rows if row.gap is not None]
    if any(math.isfinite(end) and end for row in drawn for end in (row.value, row.low, row.high)):
        title = "Bits per byte: difference from the step before; below 0 is better"
        section.figures = [forest_figure("steps", title, drawn, BITS_PER_BYTE)]
    section.tables = [Table("Every step", COLUMNS, told(rows))]
    facts = [
        Fact(
            row.name,
            f"{row.bits_per_byte:.3f}" if row.interval else told([row])[0][2].partition(" ")[0],
            size(row.size_bytes),
        )
        for row in rows[:6]
    ]
    return page(f"{name}, step by step", "chain", summary, facts, [section])
