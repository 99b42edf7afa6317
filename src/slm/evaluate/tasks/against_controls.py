"""What the model's scores are worth beside those of the controls, on the same items.

In: rows of the model, and what each control made of the same tasks. Out: the rows with the controls' values beside
them, and per task, metric and control the control's mean, the paired difference model - control with its interval, and
its p value corrected for all these comparisons (Holm). Also the smallest difference that so many items could have
shown: where it is large, a score no better than a control's says little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from slm.core.seeds import derive
from slm.evaluate.config import Control
from slm.evaluate.measurements import shared_documents
from slm.evaluate.statistics.corrections import corrected
from slm.evaluate.statistics.intervals import estimate
from slm.evaluate.statistics.paired import difference
from slm.evaluate.statistics.power import detectable
from slm.evaluate.tasks.items_table import Result


def beside(results: Sequence[Result], control: Control, found: Iterable[Result]) -> list[Result]:
    """The model's rows with the control's value on the same item; none where the control was not asked."""
    values = {(one.task, one.item, one.metric): one.value for one in found}
    return [
        replace(one, controls={**one.controls, control: values[key]}) if key in values else one
        for one in results
        for key in [(one.task, one.item, one.metric)]
    ]


def against_controls(results: Sequence[Result], seed: int) -> list[dict[str, Any]]:
    """Per task, metric and control both means' difference; nothing of tasks that a control was not asked."""
    groups: dict[tuple[str, str, Control], list[tuple[Result, float]]] = {}
    for one in results:
        for control, value in one.controls.items():
            groups.setdefault((one.task, one.metric, control), []).append((one, value))
    found = [_figures(*key, pairs, derive(seed, "controls", *key)) for key, pairs in groups.items()]
    p_values = corrected([one["p_value"] for one in found], "holm")
    return [{**one, "corrected_p": p} for one, p in zip(found, p_values, strict=True)]


def _figures(
    task: str, metric: str, control: Control, pairs: Sequence[tuple[Result, float]], seed: int
) -> dict[str, Any]:
    clusters = shared_documents([one.prompt for one, _ in pairs])
    ours, theirs = np.array([one.value for one, _ in pairs]), np.array([value for _, value in pairs])
    value, gap = estimate(theirs, None, clusters, seed=seed), difference(theirs, ours, None, clusters, seed=seed)
    least = detectable(gap.standard_error, gap.clusters)
    return {
        "task": task,
        "metric": metric,
        "control": control,
        "items": len(pairs),
        "value": value.value,
        "interval_95": [value.low, value.high],
        "difference": gap.value,
        "difference_95": [gap.low, gap.high],
        "p_value": gap.p_value,
        "detectable": least if math.isfinite(least) else None,
    }
