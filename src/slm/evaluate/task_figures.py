"""What a task's mean is worth: its error and interval, and whether the probabilities behind it are meant.

In: the table of items. Out: for each task and metric an `Estimate` over items, clustered where they ask about one text,
and for each task with choices the calibration of their log-probabilities.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from slm.core.seeds import derive
from slm.evaluate.measurements import task_measurements
from slm.evaluate.statistics.calibration import choices_calibration
from slm.evaluate.statistics.intervals import estimate

LEAST_ITEMS = 20
"""Of fewer items, half of them to fit, calibration says nothing."""


def task_figures(table: Path, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Estimates by `task: metric`, and calibrations by task."""
    measured = task_measurements(table)
    estimates = {
        name: asdict(estimate(one.numerators_N, one.denominators_N, one.clusters_N, seed=derive(seed, name)))
        for name, one in measured.items()
        if len(one.keys_N) > 1
    }
    calibrations: dict[str, Any] = {}
    for one in measured.values():
        task = str(one.rows[0]["task"])
        rows = [row for row in one.rows if row["gold"] >= 0 and len(row["choice_logprobs"]) > 1]
        if task not in calibrations and len(rows) >= LEAST_ITEMS:
            logprobs, gold = [row["choice_logprobs"] for row in rows], [int(row["gold"]) for row in rows]
            calibrations[task] = choices_calibration(logprobs, gold, derive(seed, task))
    return estimates, calibrations
