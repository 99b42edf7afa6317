"""Whether what a model says with 70 % is right in 70 %: reliability plots and the figures behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slm.report.charts import Size, reliability
from slm.report.page import Figure, Section, Table, percent

SQUARE: Size = (300, 270)
COLUMNS = (
    "prediction", "run", "judged on", "right", "confidence", "calibration error", "if calibrated", "Brier [95 %]",
    "temperature", "error at it", "nats", "nats at it",
)  # fmt: skip


def calibration(results: Mapping[str, Mapping[str, Any]]) -> Section:
    """What one or two runs' results say, by the run's name."""
    section = Section("calibration", "Calibration")
    measured = {run: found["calibration"] for run, found in results.items() if found.get("calibration")}
    if not measured:
        section.missing = "slm evaluate measures it"
        return section
    section.lead = (
        "Share of right answers against stated confidence in 15 bins of equal number; below the diagonal a model is "
        "surer than it should be. A temperature, fitted on half of the documents or items, is judged on the other "
        "half, like everything here. A perfectly calibrated model has an error above 0 too: that of its luck."
    )
    rows = []
    for number, what in enumerate(dict.fromkeys(name for found in measured.values() for name in found)):
        having = {run: found[what] for run, found in measured.items() if what in found}
        curves = {run: _points(found["stated"]) for run, found in having.items()}
        if len(having) == 1:
            (found,) = having.values()
            curves = {"as stated": _points(found["stated"]), "scaled": _points(found["scaled"])}
        title = f"Reliability: {what}"
        section.figures.append(Figure(title, reliability(f"reliability-{number}", title, curves, SQUARE)))
        rows += [_row(what, run, found) for run, found in having.items()]
    section.tables = [Table("Calibration by prediction", COLUMNS, rows)]
    return section


def _points(found: Mapping[str, Any]) -> list[tuple[float, float]]:
    return [(confidence, right) for confidence, right, _ in found["points"]]


def _row(what: str, run: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    stated, scaled = found["stated"], found["scaled"]
    return (
        what, run, f"{found['judged_on']:,}", percent(stated["accuracy"]), percent(stated["confidence"]),
        f"{stated['error']:.4f}", f"{stated['error_if_calibrated']:.4f}",
        f"{stated['brier']:.3f} [{stated['brier_95'][0]:.3f}, {stated['brier_95'][1]:.3f}]",
        f"{scaled['temperature']:.3f}", f"{scaled['error']:.4f}", f"{stated['nats']:.3f}", f"{scaled['nats']:.3f}",
    )  # fmt: skip
