"""Trials of a search for settings, as records: what was tried, how it went, and what it cost.

In: what a search kept of each trial. Out: records that tables and pages are made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from slm.evaluate.statistics.power import LEVEL
from slm.evaluate.statistics.replicates import OverSeeds

State = Literal["finished", "ended early", "failed", "running"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a search."""

    number: int
    state: State
    settings: Mapping[str, Any]
    """Values by dotted key."""
    measured: Mapping[int, float]
    """Held-out bits per byte at each measurement so far, numbered from 1."""
    flops: float
    seconds: float
    reason: str = ""
    """Why it failed."""

    @property
    def value(self) -> float | None:
        """Held-out bits per byte at its end; None where it has not come to it."""
        return self.measured[max(self.measured)] if self.state == "finished" else None


@dataclass(frozen=True, slots=True)
class Finalist:
    """A trial that was trained again with other seeds."""

    trial: Trial
    over_seeds: OverSeeds
    """Bits per byte of all held-out documents."""
    again: float
    """Mean over these seeds of what the search measured: beside the trial's value, how lucky its one draw was."""
    difference: OverSeeds
    """Less the recipe as it is, seed by seed."""
    corrected_p: float

    @property
    def better(self) -> bool:
        """Whether it is told from the recipe as it is, at 5 % after correction for the number of finalists."""
        return self.corrected_p <= LEVEL and self.difference.value < 0


def best(trials: Sequence[Trial], count: int) -> list[Trial]:
    """The finished trials of lowest value, each setting once."""
    found: list[Trial] = []
    for one in sorted(trials, key=lambda one: (float("inf") if one.value is None else one.value, one.number)):
        if one.value is not None and all(one.settings != other.settings for other in found):
            found.append(one)
    return found[:count]
