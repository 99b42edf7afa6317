"""Where one model fails: its figures by part of the items, and the items on which it is worst, with their texts.

In: a finished evaluate artifact. Out: for bits per byte and the first metric of each task an `Analysis`: the whole,
the parts that are large enough (`slices`), each with its interval, and the worst items. Parts overlap and are many, so
some stand out by luck; what differs between two models is for `comparison` to say. 10,000 items take about 5 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from slm.core.artifact import Artifact
from slm.core.seeds import derive
from slm.evaluate.measurements import (
    BITS_PER_BYTE,
    Measurement,
    answer_of,
    held_out_texts,
    read_measurements,
    sureness,
)
from slm.evaluate.slices import Slice, slices
from slm.evaluate.statistics.intervals import Estimate, estimate

WORST = 3
"""Items of each metric that are shown."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item with its text and what the model made of it."""

    key: str
    value: float
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Analysis:
    """One metric, whole and in parts."""

    name: str
    lower_is_better: bool
    whole: Estimate
    parts: list[tuple[Slice, Estimate]]
    parts_left_out: int
    worst: list[Item]


def analyse(evaluation: Artifact) -> list[Analysis]:
    """Bits per byte first, then the tasks in the order of the table."""
    first: dict[str, Measurement] = {}
    for name, one in read_measurements(evaluation).items():
        first.setdefault(name.partition(": ")[0], one)
    wanted = {one.keys_N[index] for one in first.values() if one.name == BITS_PER_BYTE for index in worst(one)}
    texts = held_out_texts(evaluation, wanted)
    return [_analysis(one, texts if one.name == BITS_PER_BYTE else {}) for one in first.values()]


def worst(one: Measurement) -> list[int]:
    """Positions of the items with the worst values; of wrong answers those that the model was surest of come first."""
    loss_N = one.scores() * (1 if one.lower_is_better else -1)
    sure_N = np.array([sureness(row) for row in one.rows])
    best = loss_N.min() if one.lower_is_better else min(loss_N.min(), -1.0)  # where all fail, each is among the worst
    order = np.lexsort((sure_N, -loss_N))
    return [int(index) for index in order[:WORST] if loss_N[index] > best]


def _analysis(one: Measurement, texts: Mapping[str, str]) -> Analysis:
    parts, left_out = slices(one.groups, one.sizes)
    return Analysis(
        one.name, one.lower_is_better, _estimate(one, None), [(part, _estimate(one, part)) for part in parts], left_out,
        [
            Item(
                one.keys_N[index], float(one.scores()[index]),
                texts.get(one.keys_N[index]) or str(one.rows[index].get("prompt") or ""), answer_of(one.rows[index]),
            )
            for index in worst(one)
        ],
    )  # fmt: skip


def _estimate(one: Measurement, part: Slice | None) -> Estimate:
    seed = derive(0, "error analysis", one.name, *((part.kind, part.name) if part else ()))
    taken = one.take(part.chosen_M) if part else one
    return estimate(taken.numerators_N, taken.denominators_N, taken.clusters_N, seed=seed)
