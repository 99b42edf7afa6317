"""The interval holds what it should, as often as it should, and is scipy's where scipy has one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from slm.evaluate.statistics.intervals import cluster_sums, estimate, interval, resampled_sums, tail_share


def test_the_interval_covers_the_truth_about_nineteen_times_in_twenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm.evaluate.statistics.intervals.RESAMPLES", 1_000)
    generator = np.random.default_rng(0)
    covered = {20: 0, 60: 0}
    for trial in range(800):
        for documents in covered:
            sizes = generator.lognormal(5, 0.5, documents)
            found = estimate(sizes * generator.normal(2.0, 0.3, documents), sizes, seed=trial)
            covered[documents] += found.low <= 2.0 <= found.high
    assert all(0.92 <= count / 800 <= 0.97 for count in covered.values()), covered


def test_plain_percentiles_would_cover_less_of_few_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm.evaluate.statistics.intervals.RESAMPLES", 1_000)
    monkeypatch.setattr("slm.evaluate.statistics.intervals.tail_share", lambda _: 0.025)
    generator, covered = np.random.default_rng(0), 0
    for trial in range(400):
        low, high = interval(cluster_sums(generator.normal(2.0, 0.3, 8), None, None), trial)
        covered += low <= 2.0 <= high
    assert covered / 400 < 0.915


@pytest.mark.parametrize("correct", [True, False], ids=["0 or 1", "all different"])
def test_it_is_scipys_percentile_bootstrap_at_the_wider_level(correct: bool) -> None:
    generator = np.random.default_rng(1)
    scores = (generator.random(300) < 0.3).astype(float) if correct else generator.lognormal(0, 1, 300)
    ours = estimate(scores, seed=3)
    theirs = stats.bootstrap(
        (scores,), np.mean, confidence_level=1 - 2 * tail_share(300), n_resamples=10_000, method="percentile",
        rng=np.random.default_rng(4),
    )  # fmt: skip
    width = ours.high - ours.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)
    assert ours.standard_error == pytest.approx(stats.sem(scores))
    assert ours.value == pytest.approx(scores.mean())


def test_it_narrows_with_the_root_of_the_documents_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    sizes, noise = generator.lognormal(5, 0.5, 6400), generator.normal(2.0, 0.3, 6400)
    monkeypatch.setattr("slm.evaluate.statistics.intervals.RESAMPLES", 2_000)
    few, many = (estimate((sizes * noise)[:n], sizes[:n], seed=3) for n in (400, 6400))
    assert 3.3 < (few.high - few.low) / (many.high - many.low) < 4.8
    assert many == estimate(sizes * noise, sizes, seed=3)
    assert many != estimate(sizes * noise, sizes, seed=4)


def test_equal_rows_drawn_together_are_drawn_as_often() -> None:
    scores = np.array([[1.0, 1.0]] * 30 + [[0.0, 1.0]] * 70)
    together = resampled_sums(scores, 20_000, 0)[:, 0]
    apart = resampled_sums(scores + np.arange(100)[:, None] * 1e-9, 20_000, 0)[:, 0]
    assert together.mean() == pytest.approx(apart.mean(), abs=0.15)
    assert together.std() == pytest.approx(apart.std(), rel=0.03) == pytest.approx(math.sqrt(100 * 0.3 * 0.7), rel=0.03)


def test_items_of_one_document_count_as_one() -> None:
    generator = np.random.default_rng(2)
    scores, copies = generator.random(50), 8
    alone = estimate(scores, seed=0)
    repeated = estimate(np.repeat(scores, copies), None, np.repeat(np.arange(50), copies), seed=0)
    unaware = estimate(np.repeat(scores, copies), seed=0)
    assert repeated.standard_error == pytest.approx(alone.standard_error)
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high))
    assert (repeated.items, repeated.clusters) == (400, 50)
    assert unaware.standard_error < alone.standard_error / 2.5


def test_one_document_is_a_point_of_infinite_error() -> None:
    found = estimate(np.array([6.0]), np.array([3.0]), seed=0)
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)
    assert found.standard_error == math.inf


def test_nothing_right_leaves_room_for_what_may_still_be() -> None:
    for items in (4, 300):
        found = estimate(np.zeros(items), seed=0)
        theirs = stats.binomtest(0, items).proportion_ci(0.95)
        assert (found.value, found.low, found.high) == (0.0, 0.0, pytest.approx(theirs.high))
    assert estimate(np.zeros(9), np.full(9, 100.0), seed=0).high == 0.0  # no score, but a ratio of amounts


def test_all_right_leaves_room_for_what_may_still_be_wrong() -> None:
    for items in (2, 300):
        found = estimate(np.ones(items), seed=0)
        theirs = stats.binomtest(items, items).proportion_ci(0.95)
        assert (found.value, found.low, found.high) == (1.0, pytest.approx(theirs.low), 1.0)
    documents = np.repeat(np.arange(3), 10)  # as many as three answers say
    assert estimate(np.ones(30), None, documents, seed=0).low == estimate(np.ones(3), seed=0).low
    amounts = estimate(np.full(9, 100.0), np.full(9, 100.0), seed=0)
    assert (amounts.low, amounts.high) == (1.0, 1.0)
