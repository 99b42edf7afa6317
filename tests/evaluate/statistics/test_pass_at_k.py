"""The estimate is the share of choices of k samples that hold one that passed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from slm.evaluate.statistics.pass_at_k import pass_at_k


@pytest.mark.parametrize("samples", [1, 2, 5, 7])
def test_it_equals_counting_all_choices(samples):
    for passed in range(samples + 1):
        for k in range(1, samples + 1):
            choices = list(itertools.combinations([True] * passed + [False] * (samples - passed), k))
            assert pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_it_is_unbiased_and_holds_for_many_samples():
    generator = np.random.default_rng(0)
    estimates = [pass_at_k(20, int(generator.binomial(20, 0.1)), 10) for _ in range(4000)]
    assert np.mean(estimates) == pytest.approx(1 - 0.9**10, abs=0.01)
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01)
    with pytest.raises(AssertionError):
        pass_at_k(5, 1, 6)
