"""A figure of the safety stage with its interval and its bound.

Shares get the exact interval of Clopper and Pearson (1934), which keeps its 95 % for any number of trials and so says
of 0 in 20 that it may be 17 %; the bootstrap would say 0. A bound must hold at the worse end, so few trials cannot
pass a strict bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure. `bound` says what the interval must keep, in words; without one nothing is judged."""

    name: str
    value: float
    low: float
    high: float
    trials: int
    bound: str = ""
    passed: bool = True

    def record(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def share(name: str, hits: Sequence[bool], *, at_most: float | None = None, at_least: float | None = None) -> Measure:
    """How often something happened, judged by the interval's worse end."""
    low, high = exact_interval(sum(hits), len(hits))
    return judged(Measure(name, sum(hits) / len(hits), low, high, len(hits)), at_most, at_least)


def judged(measure: Measure, at_most: float | None, at_least: float | None = None) -> Measure:
    """The measure with its bound, if there is one."""
    record = measure.record()
    if at_most is not None:
        record |= {"bound": f"at most {at_most:g}", "passed": measure.high <= at_most}
    if at_least is not None:
        record |= {"bound": f"at least {at_least:g}", "passed": measure.low >= at_least}
    return Measure(**record)


def exact_interval(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share by Clopper and Pearson."""
    from scipy.special import betaincinv

    low = 0.0 if hits == 0 else float(betaincinv(hits, trials - hits + 1, TAIL))
    high = 1.0 if hits == trials else float(betaincinv(hits + 1, trials - hits, 1 - TAIL))
    return low, high
