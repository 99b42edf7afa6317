"""Loss as a function of parameters and tokens, or of computation, fitted to a ladder of runs.

In: of each run its parameters N, tokens D, computation C and loss. Out: `L = E + A / N^a + B / D^b` (Hoffmann et al.,
arXiv 2203.15556) where both N and D take at least three values over seven runs, not
always in step, else `L = E + A / C^a`, which five
runs suffice for. For given exponents the law is linear in E, A and B, so these are found exactly, none below zero
(non-negative least squares of relative errors), and only the exponents are searched: a grid, then Nelder and Mead.

Intervals are from refits to the fitted losses with the relative residuals drawn anew, widened for the constants that
the fit spent (Davison and Hinkley 1997) and as Student's t is for few runs: what they hold is scatter about the law,
such as of seeds, and not that the law itself may be wrong. For that, the run that took most is left out, foretold by
the others and compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from slm.core.errors import UserError
from slm.evaluate.statistics.intervals import CONFIDENCE, Floats

LEAST_RUNS = 5
LEAST_RUNS_JOINT, LEAST_VALUES = 7, 3
IN_STEP = 0.95
"""Of parameters and tokens that grow together, as at 20 tokens a parameter, nobody can tell which one helped."""
REFITS = 200
EXPONENTS = np.linspace(0.05, 1.2, 12)
LARGEST_EXPONENT = 3.0

Law = Literal["computation", "parameters and tokens"]


class Point(NamedTuple):
    """One run."""

    parameters: float
    tokens: float
    flops: float
    loss: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Constants of the law by name: E, then A and a, then B and b; the scale of N, D and C is one run."""

    law: Law
    constants: dict[str, float]

    def predict(self, points: Sequence[Point]) -> Floats:
        """The losses that the law gives."""
        exponents = [self.constants[name] for name in ("a", "b") if name in self.constants]
        factors = [self.constants[name] for name in ("E", "A", "B") if name in self.constants]
        return np.asarray(_terms(_inputs(points, self.law), exponents) @ np.array(factors))


@dataclass(frozen=True, slots=True)
class Ladder:
    """A fit to all runs with its intervals, and how well one to all but the largest foretells the largest."""

    fit: Fit
    intervals: dict[str, tuple[float, float]]
    residuals: Floats
    """Relative, run by run."""
    held_out: int
    """The run that took most computation."""
    foretold: float
    foretold_interval: tuple[float, float]


def ladder(points: Sequence[Point], seed: int) -> Ladder:
    """Fit, intervals and the check; `UserError` for too few runs or runs that do not differ."""
    if len(points) < LEAST_RUNS:
        raise UserError(f"a scaling law needs at least {LEAST_RUNS} runs, found {len(points)}; train more sizes")
    if len({point.flops for point in points}) < LEAST_RUNS - 1:
        raise UserError("a scaling law needs runs of different computation; vary the model's size or train.tokens")
    chosen = law_for(points)
    found = fit(points, chosen)
    residuals = np.array([point.loss for point in points]) / found.predict(points) - 1
    refits = _refits(found, points, residuals, seed)
    largest = int(np.argmax([point.flops for point in points]))
    rest = [point for number, point in enumerate(points) if number != largest]
    small = fit(rest, law_for(rest) if chosen == "parameters and tokens" else chosen)
    rest_residuals = np.array([point.loss for point in rest]) / small.predict(rest) - 1
    foretold = [one.predict([points[largest]])[0] for one in _refits(small, rest, rest_residuals, seed)]
    spread = _widened(rest_residuals, small)
    noise = np.random.Generator(np.random.Philox(seed)).choice(spread, len(foretold))
    return Ladder(
        found,
        {name: _interval([one.constants[name] for one in refits]) for name in found.constants},
        residuals,
        largest,
        float(small.predict([points[largest]])[0]),
        _interval(np.array(foretold) * (1 + noise)),
    )


def law_for(points: Sequence[Point]) -> Law:
    """The joint law where the runs can tell its constants apart, else the law of computation."""
    if len(points) < LEAST_RUNS_JOINT:
        return "computation"
    logs_2N = np.log([[point.parameters for point in points], [point.tokens for point in points]])
    if min(len(set(row)) for row in logs_2N.tolist()) < LEAST_VALUES or np.corrcoef(logs_2N)[0, 1] > IN_STEP:
        return "computation"
    return "parameters and tokens"


def fit(points: Sequence[Point], law: Law, start: Sequence[float] | None = None) -> Fit:
    """The constants of least relative error; `start` gives exponents to begin at, else a grid is tried."""
    from scipy.optimize import minimize

    inputs_NK, losses_N = _inputs(points, law), np.array([point.loss for point in points])

    def error(exponents: Sequence[float]) -> float:
        if min(exponents) <= 0 or max(exponents) > LARGEST_EXPONENT:
            return float("inf")
        return _factors(inputs_NK, losses_N, exponents)[1]

    begin = start or min(product(EXPONENTS, repeat=inputs_NK.shape[1]), key=error)
    found = minimize(error, begin, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-10, "maxiter": 400})
    exponents = [float(value) for value in found.x]
    factors = _factors(inputs_NK, losses_N, exponents)[0]
    names = ("E", "A", "B")[: len(factors)]
    constants = dict(zip(names, map(float, factors), strict=True)) | dict(zip(("a", "b"), exponents, strict=False))
    return Fit(law, constants)


def _inputs(points: Sequence[Point], law: Law) -> Floats:
    """What the terms are powers of, in units near one: A is the loss that 10^6 parameters leave, and so on."""
    if law == "computation":
        return np.array([[point.flops / 1e15] for point in points])
    return np.array([[point.parameters / 1e6, point.tokens / 1e6] for point in points])


def _terms(inputs_NK: Floats, exponents: Sequence[float]) -> Floats:
    return np.column_stack([np.ones(len(inputs_NK)), inputs_NK ** -np.asarray(exponents)])


def _factors(inputs_NK: Floats, losses_N: Floats, exponents: Sequence[float]) -> tuple[Floats, float]:
    """E, A and B, none below zero, that fit best at these exponents, and the error that is left."""
    from scipy.optimize import nnls

    factors, left = nnls(_terms(inputs_NK, exponents) / losses_N[:, None], np.ones(len(losses_N)))
    return factors, float(left)


def _refits(found: Fit, points: Sequence[Point], residuals: Floats, seed: int) -> list[Fit]:
    generator = np.random.Generator(np.random.Philox(seed))
    fitted, spread = found.predict(points), _widened(residuals, found)
    exponents = [found.constants[name] for name in ("a", "b") if name in found.constants]
    refits = []
    for _ in range(REFITS):
        losses = fitted * (1 + generator.choice(spread, len(points)))
        drawn = [point._replace(loss=float(loss)) for point, loss in zip(points, losses, strict=True)]
        refits.append(fit(drawn, found.law, exponents))
    return refits


def _widened(residuals: Floats, found: Fit) -> Floats:
    """Residuals without their mean, as large as had the fit not followed them, and by what t is wider than normal."""
    from scipy.special import ndtri, stdtrit

    freedom = max(1, len(residuals) - len(found.constants))
    wider = stdtrit(freedom, (1 + CONFIDENCE) / 2) / ndtri((1 + CONFIDENCE) / 2)
    return np.asarray((residuals - residuals.mean()) * np.sqrt(len(residuals) / freedom) * wider)


def _interval(values: Sequence[float] | Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
