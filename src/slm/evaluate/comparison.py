"""Two evaluations of the same items: what differs, by how much at least, and where.

In: the evaluate artifacts of two runs. Out: for each metric that both have, the value of each with its interval, the
paired difference with interval and p value, corrected for the number of metrics (Holm); the same for parts of the
items, corrected for the number of parts (Benjamini and Hochberg); the items that got worse and better by most. What
could be found at all (`prospects`) is known from how much the pairs scatter, before their mean is looked at.

The text of a document is read from the corpus it was held out of, where that is still there and the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.evaluate.measurements import (
    BITS_PER_BYTE,
    Measurement,
    answer_of,
    held_out_texts,
    matched,
    read_measurements,
    sureness,
)
from slm.evaluate.slices import Slice, slices
from slm.evaluate.statistics.corrections import corrected
from slm.evaluate.statistics.intervals import Estimate, cluster_sums, estimate, standard_error
from slm.evaluate.statistics.paired import Difference, difference
from slm.evaluate.statistics.power import LEVEL, detectable

CHANGES = 5
"""Items shown of each metric that got worse by most, and as many that got better."""

Pair = tuple[Measurement, Measurement]


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a comparison can find, before it is made."""

    name: str
    items: int
    detectable: float


@dataclass(frozen=True, slots=True)
class Finding:
    """A metric, or a part of its items, in both runs."""

    name: str
    part: Slice | None
    lower_is_better: bool
    a: Estimate
    b: Estimate
    difference: Difference
    detectable: float
    corrected_p: float

    @property
    def verdict(self) -> str:
        """In words which run is better, where that can be told at the level after the correction."""
        if self.corrected_p > LEVEL:
            return "not told apart"
        return "B is better" if (self.difference.value < 0) == self.lower_is_better else "A is better"


@dataclass(frozen=True, slots=True)
class Change:
    """One item on which the runs differ; a positive `gain` is B's."""

    name: str
    key: str
    a: float
    b: float
    gain: float
    prompt: str
    a_text: str
    b_text: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that a page about two runs shows."""

    findings: list[Finding]
    parts: list[Finding]
    parts_left_out: int
    changes: list[Change]
    """The worst first, the best last, metric by metric."""
    only_one: list[str]
    """Metrics that one run lacks, with the number of their items."""


def pairs_of(a: Artifact, b: Artifact) -> tuple[list[Pair], list[str]]:
    """Measurements of both on the same items, and a word on those that one lacks; `UserError` where items differ."""
    found = read_measurements(a), read_measurements(b)
    names = str(a.path), str(b.path)
    pairs = [(one, matched(one, found[1][name], names)) for name, one in found[0].items() if name in found[1]]
    only = [
        f"{name} ({len(one.keys_N):,} items, only in {which})"
        for mine, other, which in ((*found, "A"), (*found[::-1], "B"))
        for name, one in mine.items()
        if name not in other
    ]
    if not pairs:
        raise UserError(f"{names[0]} and {names[1]} share no metric; evaluate both by the same tasks")
    return pairs, only


def prospects(pairs: Sequence[Pair]) -> list[Prospect]:
    """For each metric the smallest difference that the paired test finds four times in five."""
    return [Prospect(a.name, len(a.keys_N), _detectable(a, b)) for a, b in pairs]


def compare(pairs: Sequence[Pair], only_one: list[str]) -> Comparison:
    """Everything there is to say; `pairs` and `only_one` come from `pairs_of`."""
    findings = [_finding(a, b, None) for a, b in pairs]
    parts: list[Finding] = []
    left_out = 0
    for a, b in pairs:
        found, small = slices(_joined_groups(a, b), a.sizes)
        left_out += small
        parts += [_finding(a.take(part.chosen_M), b.take(part.chosen_M), part) for part in found]
    by_holm = corrected([finding.difference.p_value for finding in findings], "holm")
    by_rate = corrected([finding.difference.p_value for finding in parts], "benjamini_hochberg")
    return Comparison(
        [replace(finding, corrected_p=p) for finding, p in zip(findings, by_holm, strict=True)],
        [replace(finding, corrected_p=p) for finding, p in zip(parts, by_rate, strict=True)],
        left_out,
        [change for a, b in pairs for change in changes(a, b)],
        only_one,
    )


def changes(a: Measurement, b: Measurement, most: int = CHANGES) -> list[Change]:
    """The items that got worse by most, then those that got better by most; items that did neither are none."""
    gains_N = (b.scores() - a.scores()) * (-1 if a.lower_is_better else 1)
    sure_N = np.array([sureness(row_b) - sureness(row_a) for row_a, row_b in zip(a.rows, b.rows, strict=True)])
    order = np.lexsort((sure_N, gains_N))  # of answers that turned from right to wrong, the surest turn first
    worst = [index for index in order[:most] if gains_N[index] < 0]
    best = [index for index in order[::-1][:most] if gains_N[index] > 0]
    return [
        Change(
            a.name, a.keys_N[index], float(a.scores()[index]), float(b.scores()[index]), float(gains_N[index]),
            str(a.rows[index].get("prompt") or ""), answer_of(a.rows[index]), answer_of(b.rows[index]),
        )
        for index in (*worst, *best)
    ]  # fmt: skip


def with_texts(changes: Sequence[Change], evaluation: Artifact) -> list[Change]:
    """The changes with the texts of held-out documents, read from the corpus where it is there and the same."""
    texts = held_out_texts(evaluation, {change.key for change in changes if change.name == BITS_PER_BYTE})
    return [replace(one, prompt=texts[one.key]) if one.key in texts else one for one in changes]


def _finding(a: Measurement, b: Measurement, part: Slice | None) -> Finding:
    seed = derive(0, "comparison", a.name, *((part.kind, part.name) if part else ()))
    values = [estimate(one.numerators_N, one.denominators_N, one.clusters_N, seed=seed) for one in (a, b)]
    found = difference(a.numerators_N, b.numerators_N, a.denominators_N, a.clusters_N, seed=seed)
    return Finding(a.name, part, a.lower_is_better, values[0], values[1], found, _detectable(a, b), found.p_value)


def _detectable(a: Measurement, b: Measurement) -> float:
    rows_C2 = cluster_sums(b.numerators_N - a.numerators_N, a.denominators_N, a.clusters_N)
    return detectable(standard_error(rows_C2), len(rows_C2))


def _joined_groups(a: Measurement, b: Measurement) -> dict[str, list[str]]:
    """Groups of the items; where the runs disagree, as on what each one's corpus held, both are named."""
    return {
        kind: [_both(*names) for names in zip(of_a, b.groups[kind], strict=True)] for kind, of_a in a.groups.items()
    }


def _both(a: str, b: str) -> str:
    return a if a == b else f"{a} in A, {b} in B"
