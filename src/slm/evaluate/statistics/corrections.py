"""p values of many comparisons made at once: of 20 that are all chance, one is below 0.05.

Holm's (1979) keeps the probability of even one false finding below the level, under any dependence; that of
Benjamini and Hochberg (1995) keeps the expected share of false ones among the findings below it, where the
comparisons are independent or positively dependent, and finds more. Both give p values to hold against the level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Correction = Literal["holm", "benjamini_hochberg"]


def corrected(p_values: Sequence[float], kind: Correction) -> list[float]:
    """The corrected p values, in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    count = len(p)
    if kind == "holm":
        stepped = np.maximum.accumulate(p[order] * np.arange(count, 0, -1))
    else:
        stepped = np.minimum.accumulate((p[order] * count / np.arange(1, count + 1))[::-1])[::-1]
    result = np.empty(count)
    result[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in result]
