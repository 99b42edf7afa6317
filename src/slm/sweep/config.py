"""Which settings of a recipe to search or to change, in how many runs, and when a run is not worth its end."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from slm.core.config import Config, neutral


class Parameter(Config):
    """One setting that is searched."""

    key: str = Field(min_length=1)
    """Dotted key of model, objective or train, such as train.optimizer.lr."""
    kind: Literal["float", "int", "choice"] = "float"
    """What it is: a number between low and high, or one of choices."""
    low: float | None = None
    """The smallest value."""
    high: float | None = None
    """The largest value."""
    log: bool = False
    """Draw evenly over orders of magnitude, as suits learning rates and sizes."""
    step: float | None = Field(None, gt=0)
    """Values are low plus multiples of this; for int 1 where it is left out."""
    choices: tuple[bool | int | float | str, ...] = ()
    """The values of a choice."""

    @model_validator(mode="after")
    def _is_one_kind(self) -> Parameter:
        low, high = self.low, self.high
        if self.kind == "choice":
            if len(self.choices) < 2 or len(set(map(repr, self.choices))) < len(self.choices):
                raise ValueError(f"{self.key}: a choice needs two different values or more; name them in choices")
            if (low, high, self.step) != (None, None, None) or self.log:
                raise ValueError(f"{self.key}: a choice has no low, high, log or step; remove them")
            return self
        if self.choices:
            raise ValueError(f"{self.key}: choices have no effect on kind {self.kind}; set kind to choice")
        if low is None or high is None or low >= high:
            raise ValueError(f"{self.key}: low ({low}) must be less than high ({high}); give both")
        if self.log and (low <= 0 or self.step is not None):
            raise ValueError(f"{self.key}: log needs low ({low:g}) above 0 and no step ({self.step}); change one")
        ends = [low, high, *([self.step] if self.step is not None else [])]
        if self.kind == "int" and not all(end.is_integer() for end in ends):
            raise ValueError(f"{self.key}: an int needs whole numbers for low, high and step, found {ends}")
        return self


class Step(Config):
    """One run of a chain."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Name of its run, and what the table calls it."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys with their values, where it differs from the recipe."""


class SweepConfig(Config):
    """Many runs of one recipe: a search for settings, one change at a time, or one after the other."""

    space: tuple[Parameter, ...] = ()
    """Settings that `slm sweep` searches; all others are the recipe's."""
    trials: int = neutral(20, ge=1)
    """Runs of the search in all, over every process that shares it; raise it to go on searching."""
    max_flops: float = neutral(0.0, ge=0)
    """Floating-point operations for all trials together; none begins that could exceed them. 0 is no limit."""
    max_minutes: float = neutral(0.0, ge=0)
    """Minutes of training for all trials together, over all processes; none begins after them. 0 is no limit."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How settings are drawn: from what did well so far (tree-structured Parzen estimator), or evenly."""
    pruner: Literal["median", "asha", "hyperband", "none"] = "median"
    """What ends a trial early: below the median of the others at the same place; successive halving; several of
    those at once; nothing."""
    first_trials: int = Field(5, ge=1)
    """Trials that are drawn evenly before tpe takes over, and that the median does not end."""
    measurements: int = Field(8, ge=1)
    """How often a trial is measured on held-out rows, the end included; it may be ended at all but the last."""
    finalists: int = neutral(3, ge=0)
    """Best trials that are trained again with other seeds, beside the recipe as it is; 0 leaves that out."""
    changes: tuple[dict[str, Any], ...] = ()
    """Changes that `slm ablation` tries one at a time: each some dotted keys with their values."""
    seeds: int = neutral(3, ge=2)
    """Seeds for finalists and changes: those after the recipe's own."""
    chain: tuple[Step, ...] = ()
    """Runs that `slm chain` makes one after the other, each but the first from the weights of the one before."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> SweepConfig:
        keys = [one.key for one in self.space]
        for key in dict.fromkeys(keys):
            if keys.count(key) > 1:
                raise ValueError(f"space: {key} stands there twice; give each key one range")
        for change in self.changes:
            if not change or self.changes.count(change) > 1:
                raise ValueError(f"changes: {change} is empty or stands there twice; name each change once")
        names = [step.name for step in self.chain]
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                raise ValueError(f"chain: {name} stands there twice; give each step a name of its own")
        if not math.isfinite(self.max_flops):
            raise ValueError(f"max_flops ({self.max_flops}) must be a number; 0 is no limit")
        return self
