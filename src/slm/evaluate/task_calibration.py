"""Whether the probabilities behind a task's choices are meant: their calibration, task by task.

In: the table of items. Out: for each task with choices the figures of `statistics.calibration`, of the choices'
log-probabilities made to add up to one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slm.core.seeds import derive
from slm.evaluate.measurements import task_measurements
from slm.evaluate.statistics.calibration import choices_calibration

LEAST_ITEMS = 20
"""Of fewer items, half of them to fit, calibration says nothing."""


def task_calibrations(table: Path, seed: int) -> dict[str, Any]:
    """Calibrations by task; tasks of few items, or whose items have no choices, have none."""
    found: dict[str, Any] = {}
    for one in task_measurements(table).values():
        task = str(one.rows[0]["task"])
        rows = [row for row in one.rows if row["gold"] >= 0 and len(row["choice_logprobs"]) > 1]
        if task not in found and len(rows) >= LEAST_ITEMS:
            logprobs, gold = [row["choice_logprobs"] for row in rows], [int(row["gold"]) for row in rows]
            found[task] = choices_calibration(logprobs, gold, derive(seed, task))
    return found
