"""A planted law is found again, its intervals hold it, and a run that breaks it is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from slm.core.errors import UserError
from slm.evaluate.statistics import power_law
from slm.evaluate.statistics.power_law import Point, fit, ladder, law_for

E, A, ALPHA, B, BETA = 0.6, 0.8, 0.35, 0.9, 0.3


def grid(noise: float = 0.0, seed: int = 0) -> list[Point]:
    """Four sizes by three numbers of tokens, under a known law with relative noise."""
    generator = np.random.default_rng(seed)
    points = []
    for parameters in (1e6, 3e6, 1e7, 3e7):
        for tokens in (2e7, 1e8, 5e8):
            loss = E + A * (parameters / 1e6) ** -ALPHA + B * (tokens / 1e6) ** -BETA
            points.append(Point(parameters, tokens, 6 * parameters * tokens, loss * (1 + noise * generator.normal())))
    return points


def chain(runs: int, noise: float = 0.0, seed: int = 0) -> list[Point]:
    """Runs of 20 tokens a parameter, under a known law of computation."""
    generator = np.random.default_rng(seed)
    sizes = np.geomspace(1e6, 1e8, runs)
    return [
        Point(n, 20 * n, 120 * n * n, (0.7 + 1.1 * (120 * n * n / 1e15) ** -0.15) * (1 + noise * generator.normal()))
        for n in sizes
    ]


def test_a_joint_law_is_found_again() -> None:
    found = fit(grid(), "parameters and tokens")
    expected = {"E": E, "A": A, "a": ALPHA, "B": B, "b": BETA}
    assert found.constants == pytest.approx(expected, rel=0.02)
    assert found.predict(grid()) == pytest.approx([point.loss for point in grid()], rel=1e-4)


def test_a_law_of_computation_is_found_again() -> None:
    found = fit(chain(6), "computation")
    assert found.constants == pytest.approx({"E": 0.7, "A": 1.1, "a": 0.15}, rel=0.02)


def test_which_law_the_runs_can_tell() -> None:
    assert law_for(grid()) == "parameters and tokens"
    assert law_for(chain(9)) == "computation"  # parameters and tokens in step
    assert law_for([point._replace(tokens=1e8) for point in grid()]) == "computation"


def test_intervals_hold_the_planted_constants_and_the_largest_run_is_foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power_law, "REFITS", 40)
    held = {"A": 0, "a": 0, "foretold": 0}
    for trial in range(6):
        points = grid(0.004, trial)
        found = ladder(points, trial)
        for name, truth in (("A", A), ("a", ALPHA)):
            low, high = found.intervals[name]
            held[name] += low <= truth <= high
        assert found.held_out == len(points) - 1
        low, high = found.foretold_interval
        held["foretold"] += low <= points[-1].loss <= high
        assert found.foretold == pytest.approx(points[-1].loss, rel=0.02)
    assert min(held.values()) >= 4, held


def test_a_run_that_breaks_the_law_is_outside_of_what_was_foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power_law, "REFITS", 40)
    points = chain(7, 0.002)
    points[-1] = points[-1]._replace(loss=points[-1].loss * 1.06)
    found = ladder(points, 0)
    assert found.fit.law == "computation"
    assert points[-1].loss > found.foretold_interval[1]


def test_too_few_runs_or_equal_ones_are_refused() -> None:
    with pytest.raises(UserError, match=r"^a scaling law needs at least 5 runs, found 4; train more sizes"):
        ladder(chain(4), 0)
    with pytest.raises(UserError, match=r"^a scaling law needs runs of different computation; vary"):
        ladder([chain(5)[0]] * 6, 0)
