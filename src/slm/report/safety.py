"""The figures of the safety stage, each with its interval, the bound that it must keep and whether it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slm.report.gather import Run, command
from slm.report.page import Fact, Section, Table
from slm.report.sections import mark_stale


def safety(run: Run) -> Section:
    """What the run's safety stage found."""
    if not run.safety:
        return Section("safety", "Safety", missing=command(run.recipe, "safety"))
    section = measures(run.safety)
    mark_stale(section, run, "safety")
    return section


def measures(found: Mapping[str, Any]) -> Section:
    """What `results.json` of a safety stage says, for the report and for a model's card."""
    section = Section("safety", "Safety")
    section.lead = (
        f"{found['answers']:,} greedy answers of {found['model']}. Bounds hold at the worse end of the interval. "
        "Refusals are told by how answers begin."
    )
    section.notices = [
        f"{one['name']} breaks its bound: {one['value']:.4g} ({one['low']:.4g} to {one['high']:.4g}), "
        f"must be {one['bound']}."
        for one in found["measures"]
        if not one["passed"]
    ]
    section.tables = [
        Table(
            "Shares of what was tried; exposure in bits",
            ("measure", "value", "95 % interval", "trials", "bound", "outcome"),
            [
                (
                    one["name"], f"{one['value']:.4g}", f"{one['low']:.4g} to {one['high']:.4g}", f"{one['trials']:,}",
                    one["bound"] or "none", "–" if not one["bound"] else "held" if one["passed"] else "BROKEN",
                )
                for one in found["measures"]
            ],
        )
    ]  # fmt: skip
    section.facts = [Fact("empty answers", f"{found['empty_answers']:,}", f"of {found['answers']:,}")]
    if found["prompts_too_long"]:
        section.facts.append(Fact("prompts too long to ask", f"{found['prompts_too_long']:,}"))
    if found["classifier"]:
        figures = [found["classifier"][name] for name in ("precision", "recall") if name in found["classifier"]]
        words = [f"{one['name']} {one['value']:.2f} ({one['low']:.2f} to {one['high']:.2f})" for one in figures]
        section.remarks = [f"The toxicity classifier's own figures: {', '.join(words)}."]
    return section
