"""The interval holds what it should, about as often as it should."""

from __future__ import annotations

import numpy as np
import pytest

from slm.evaluate.intervals import ratio_interval


def test_the_interval_covers_the_truth_about_nineteen_times_in_twenty():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        sizes = generator.lognormal(5, 1, 60)
        low, high = ratio_interval(sizes * generator.normal(2.0, 0.3, 60), sizes, trial)
        covered += low <= 2.0 <= high
    assert 0.84 <= covered / 100 <= 0.99


def test_it_narrows_with_the_root_of_the_documents_and_repeats():
    generator = np.random.default_rng(1)
    sizes, noise = generator.lognormal(5, 0.5, 6400), generator.normal(2.0, 0.3, 6400)
    widths = [np.diff(ratio_interval((sizes * noise)[:n], sizes[:n], 3))[0] for n in (400, 6400)]
    assert 2.8 < widths[0] / widths[1] < 5.5
    assert ratio_interval(sizes * noise, sizes, 3) == ratio_interval(sizes * noise, sizes, 3)


def test_one_document_is_a_point():
    assert ratio_interval(np.array([6.0]), np.array([3.0]), 0) == (pytest.approx(2.0), pytest.approx(2.0))
