from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from slm.evaluate.statistics.corrections import corrected


def test_benjamini_and_hochberg_is_scipys() -> None:
    p = np.random.default_rng(0).random(40) ** 3
    assert corrected(p, "benjamini_hochberg") == pytest.approx(stats.false_discovery_control(p, method="bh"))


def test_holm_is_the_step_down_of_bonferroni_by_its_definition() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert corrected(p, "holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])
    draws = np.random.default_rng(1).random(25) ** 4
    order = np.argsort(draws)
    rejected = set()
    for rank, index in enumerate(order):
        if draws[index] > 0.05 / (25 - rank):
            break
        rejected.add(index)
    assert {index for index, value in enumerate(corrected(draws, "holm")) if value <= 0.05} == rejected
    assert 0 < len(rejected) < 25


def test_of_many_comparisons_by_chance_holm_seldom_finds_any() -> None:
    generator = np.random.default_rng(2)
    families = [generator.random(20) for _ in range(400)]
    assert np.mean([min(p) <= 0.05 for p in families]) > 0.5
    assert np.mean([min(corrected(p, "holm")) <= 0.05 for p in families]) < 0.08


def test_none_and_one_stay_what_they_are() -> None:
    for kind in ("holm", "benjamini_hochberg"):
        assert corrected([], kind) == []
        assert corrected([0.3], kind) == [0.3]
