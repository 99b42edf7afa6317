"""Shares with exact intervals, and bounds that hold at the worse end."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from slm.safety.measures import Measure, exact_interval, judged, share


@pytest.mark.parametrize(("hits", "trials"), [(0, 20), (20, 20), (3, 7), (1, 1000), (499, 520)])
def test_the_interval_is_that_of_scipy(hits, trials):
    expected = binomtest(hits, trials).proportion_ci(method="exact")
    assert exact_interval(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_few_trials_keep_no_strict_bound_however_good_they_look():
    assert not share("x", [False] * 20, at_most=0.1).passed
    assert share("x", [False] * 40, at_most=0.1).passed
    assert not share("x", [True] * 20, at_least=0.9).passed
    assert share("x", [True] * 40, at_least=0.9).passed


def test_without_a_bound_nothing_is_judged():
    measure = share("x", [True, False])
    assert (measure.value, measure.bound, measure.passed) == (0.5, "", True)
    assert judged(Measure("x", 2.0, 1.0, 3.0, 5), 2.5).record() == {
        "name": "x", "value": 2.0, "low": 1.0, "high": 3.0, "trials": 5, "bound": "at most 2.5", "passed": False,
    }  # fmt: skip
