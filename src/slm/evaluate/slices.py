"""Parts of a table of items that may behave apart: groups by name, and quarters by size.

Pure: names and numbers in, positions out. A part below `LEAST_ITEMS` is not shown, since its interval would be wider
than any difference; how many were left out is counted. Looking at many parts finds some by chance: their p values
are corrected together (`statistics.corrections`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slm.core.console import quantity
from slm.evaluate.statistics.intervals import Floats, Integers

LEAST_ITEMS = 8
QUARTERS = 4


@dataclass(frozen=True, slots=True)
class Slice:
    """One part: by what it was cut, which it is, and the positions of its items."""

    kind: str
    name: str
    chosen_M: Integers


def slices(groups: Mapping[str, Sequence[str]], sizes: Mapping[str, Floats]) -> tuple[list[Slice], int]:
    """The parts that are large enough, and the number of those that are not; a group of all items is none."""
    found: list[Slice] = []
    for kind, names in groups.items():
        different = sorted(set(names))
        if len(different) > 1:
            array = np.array(names)
            found += [Slice(kind, name, np.flatnonzero(array == name)) for name in different]
    for kind, values_N in sizes.items():
        found += quarters(kind, values_N)
    large = [part for part in found if len(part.chosen_M) >= LEAST_ITEMS]
    return large, len(found) - len(large)


def quarters(kind: str, values_N: Floats) -> list[Slice]:
    """Up to four parts of about as many items, by size; items of one size stay together."""
    if not len(values_N) or float(np.ptp(values_N)) == 0:
        return []
    edges = np.unique(np.quantile(values_N, np.arange(1, QUARTERS) / QUARTERS))
    part_N = np.searchsorted(edges, values_N, side="left")
    found = []
    for part in range(len(edges) + 1):
        chosen = np.flatnonzero(part_N == part)
        if len(chosen):
            low, high = (_shown(float(end)) for end in (values_N[chosen].min(), values_N[chosen].max()))
            found.append(Slice(kind, low if low == high else f"{low} to {high}", chosen))
    return found


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else quantity(value)
