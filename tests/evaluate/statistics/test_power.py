from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from slm.evaluate.statistics.power import detectable, items_needed, power_of, spread_of_difference


def test_what_is_detectable_is_found_with_the_power_asked_for() -> None:
    for power in (0.5, 0.8, 0.95):
        for clusters in (20, 1_000):
            assert power_of(detectable(0.01, clusters, power), 0.01, clusters) == pytest.approx(power, abs=2e-3)
    assert power_of(0.0, 0.01, 50) == pytest.approx(0.05)
    assert (power_of(0.0, 0.0, 50), power_of(0.1, 0.0, 50)) == (0.05, 1.0)


def test_of_many_items_it_is_the_textbooks_2_8_standard_errors_and_of_few_more() -> None:
    textbook = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert detectable(1.0, 1_000_000) == pytest.approx(textbook, rel=1e-4)
    assert detectable(1.0, 40) == pytest.approx(2.88, abs=0.01)
    assert detectable(1.0, 8) == pytest.approx(3.3, abs=0.05)
    assert detectable(1.0, 5) == math.inf  # the smallest p value of five swaps is 1/16
    assert power_of(100.0, 1.0, 5) == 0.0


def test_the_power_is_scipys_of_the_t_test() -> None:
    for clusters in (20, 80, 300):
        edge = stats.t.ppf(0.975, clusters - 1)
        assert stats.nct.sf(edge, clusters - 1, detectable(1.0, clusters)) == pytest.approx(0.8, abs=1e-3)


def test_the_items_needed_are_the_fewest_that_suffice() -> None:
    spread = spread_of_difference(0.4, 0.5)
    items = items_needed(0.02, spread)
    assert detectable(spread / math.sqrt(items), items) <= 0.02 < detectable(spread / math.sqrt(items - 1), items - 1)
    assert items_needed(0.01, spread) == pytest.approx(4 * items, rel=1e-3)
    assert items_needed(1.0, 1e-6) == 6


def test_a_thousand_items_at_40_percent_tell_no_difference_of_a_point() -> None:
    """The standard error of one accuracy is then 1.5 points."""
    assert math.sqrt(0.4 * 0.6 / 1_000) == pytest.approx(0.0155, abs=1e-4)
    assert detectable(spread_of_difference(0.4, 0.0) / math.sqrt(1_000), 1_000) == pytest.approx(0.0615, abs=1e-3)
    assert power_of(0.01, spread_of_difference(0.4, 0.5) / math.sqrt(1_000), 1_000) < 0.12


def test_the_spread_is_that_of_correlated_answers() -> None:
    generator = np.random.default_rng(0)
    shared, a, b = (generator.random(200_000) < 0.3 for _ in range(3))
    same = generator.random(200_000) < 0.6
    x, y = np.where(same, shared, a), np.where(same, shared, b)
    correlation = float(np.corrcoef(x, y)[0, 1])
    found = (x.astype(int) - y).std()
    assert spread_of_difference(0.3, correlation) == pytest.approx(found, rel=0.02)
