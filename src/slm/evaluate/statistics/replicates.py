"""The same run with several seeds: what of a difference is the recipe's, and what the draw's.

Items tell how far a number moves with the text it is measured on; seeds tell how far it moves when everything is done
again. A claim about a recipe needs the second. In: one number for each seed. Out: mean and 95 % interval by Student's
t with n - 1 degrees of freedom, which at three seeds is 4.3 standard errors wide to each side. Runs that share
seeds (and so weights at the start and order of the data) are compared seed by seed; else Welch's test, whose degrees
of freedom follow Satterthwaite. Both are checked against scipy.stats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from slm.core.errors import UserError
from slm.evaluate.statistics.intervals import CONFIDENCE


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """A mean over seeds, or a difference of two."""

    value: float
    standard_error: float
    low: float
    high: float
    p_value: float
    """Of a true value of 0."""
    seeds: int
    paired: bool = False


def over_seeds(values: Mapping[int, float]) -> OverSeeds:
    """The mean over seeds; `UserError` where there are fewer than two."""
    found = np.array([values[seed] for seed in sorted(values)])
    _require_two(len(found))
    return _student(float(found.mean()), float(found.std(ddof=1)) / math.sqrt(len(found)), len(found) - 1, len(found))


def difference_over_seeds(a: Mapping[int, float], b: Mapping[int, float]) -> OverSeeds:
    """Mean of B minus mean of A: seed by seed where both have the same seeds."""
    if a.keys() == b.keys():
        found = over_seeds({seed: b[seed] - a[seed] for seed in a})
        return OverSeeds(
            found.value, found.standard_error, found.low, found.high, found.p_value, found.seeds, paired=True
        )
    _require_two(len(a))
    _require_two(len(b))
    parts = [np.var(list(one.values()), ddof=1) / len(one) for one in (a, b)]
    error = math.sqrt(sum(parts))
    freedom = (
        sum(parts) ** 2 / sum(part**2 / (len(one) - 1) for part, one in zip(parts, (a, b), strict=True))
        if error
        else len(a) + len(b) - 2
    )
    value = float(np.mean(list(b.values())) - np.mean(list(a.values())))
    return _student(value, error, float(freedom), len(a) + len(b))


def _student(value: float, error: float, freedom: float, seeds: int) -> OverSeeds:
    from scipy.special import stdtr, stdtrit

    reach = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    p_value = 2 * float(stdtr(freedom, -abs(value) / error)) if error else float(value == 0)
    return OverSeeds(value, error, value - reach, value + reach, p_value, seeds)


def _require_two(count: int) -> None:
    if count < 2:
        raise UserError(
            f"{count} seed(s) of a setting were given; an interval over seeds needs two, three or more say something: "
            "train it with other seeds too (-m seed=1,2,3)"
        )
