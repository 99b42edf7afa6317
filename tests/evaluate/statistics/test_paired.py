"""A planted difference is found as often as promised, none is found where there is none, and scipy agrees."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from slm.evaluate.statistics.intervals import cluster_sums, standard_error
from slm.evaluate.statistics.paired import difference, swap_test
from slm.evaluate.statistics.power import detectable, spread_of_difference

REPETITIONS = 200


@pytest.fixture(autouse=True)
def fewer_draws_where_repeated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "scipys" in request.node.name:
        return
    monkeypatch.setattr("slm.evaluate.statistics.paired.SWAPS", 999)
    monkeypatch.setattr("slm.evaluate.statistics.intervals.RESAMPLES", 500)


def bits(generator: np.random.Generator, effect: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bits of A and B on 80 documents of unequal length; documents differ far more than models do."""
    sizes = generator.lognormal(5, 0.4, 80)
    a = sizes * generator.normal(1.5, 0.3, 80)
    return a, a + sizes * (effect + generator.normal(0, 0.05, 80)), sizes


def test_a_planted_difference_is_found_at_its_stated_power() -> None:
    generator = np.random.default_rng(0)
    a, b, sizes = bits(generator, 0.0)  # a first look at how far two runs agree
    effect = detectable(standard_error(cluster_sums(b - a, sizes, None)), 80, power=0.8)
    assert effect < 0.02  # a fifteenth of what documents differ by
    found = sum(difference(*bits(generator, effect), seed=number).p_value <= 0.05 for number in range(REPETITIONS))
    assert 0.72 <= found / REPETITIONS <= 0.88, found


def test_no_difference_is_not_found_in_at_least_94_of_100() -> None:
    """Five times 200 repetitions: of 200 alone, an exact test stays below 94 % one time in four."""
    generator = np.random.default_rng(1)
    silent, covered = 0, 0
    for number in range(5 * REPETITIONS):
        a, b, sizes = bits(generator, 0.0)
        silent += swap_test(b - a, number) > 0.05
        if number < REPETITIONS:
            found = difference(a, b, sizes, seed=number)
            covered += found.low <= 0 <= found.high
    assert 0.94 <= silent / (5 * REPETITIONS) <= 0.965, silent
    assert covered / REPETITIONS >= 0.92, covered


@pytest.mark.parametrize("effect", [0.0, 1.0], ids=["none", "planted"])
def test_the_same_holds_of_right_and_wrong_answers(effect: float) -> None:
    """Two models of the same rate that agree as far as a shared part of each item's difficulty makes them."""
    generator, items, rate = np.random.default_rng(2), 400, 0.4
    planted = effect * detectable(spread_of_difference(rate, 0.0) / np.sqrt(items), items)
    found = 0
    for number in range(REPETITIONS):
        a = (generator.random(items) < rate - planted / 2).astype(float)
        b = (generator.random(items) < rate + planted / 2).astype(float)
        found += swap_test(b - a, number) <= 0.05
    if effect:
        assert 0.70 <= found / REPETITIONS <= 0.88, found
    else:
        assert found / REPETITIONS <= 0.06, found


def test_the_interval_is_scipys_paired_bootstrap() -> None:
    a, b, sizes = bits(np.random.default_rng(3), 0.01)
    ours = difference(a, b, sizes, seed=5)
    theirs = stats.bootstrap(
        (a, b, sizes), lambda x, y, z, axis: (y - x).sum(axis=axis) / z.sum(axis=axis), paired=True,
        n_resamples=10_000, method="percentile", rng=np.random.default_rng(6),
    ).confidence_interval  # fmt: skip
    width = ours.high - ours.low
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05 * width)
    assert ours.value == pytest.approx((b.sum() - a.sum()) / sizes.sum())


@pytest.mark.parametrize("items", [9, 60])
def test_the_p_value_is_scipys_of_all_and_of_random_swaps(items: int) -> None:
    generator = np.random.default_rng(items + 1)
    a = generator.normal(0, 1, items)
    b = a + generator.normal(0.15, 0.7, items)
    theirs = stats.permutation_test(
        (a, b), lambda x, y, axis: (y - x).mean(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=10_000, rng=np.random.default_rng(7),
    ).pvalue  # fmt: skip
    assert 0.005 < theirs < 0.5
    assert swap_test(b - a, 8) == pytest.approx(theirs, abs=0.012 if items > 13 else 1e-12)


def test_of_right_and_wrong_answers_it_is_mcnemars_exact_test() -> None:
    differences = np.array([1.0] * 19 + [-1.0] * 7 + [0.0] * 100)
    assert swap_test(differences, 0) == pytest.approx(stats.binomtest(19, 26).pvalue)
    assert swap_test(-differences / 3, 0) == pytest.approx(stats.binomtest(19, 26).pvalue)
    assert swap_test(np.zeros(5), 0) == 1.0


def test_where_no_item_differs_the_interval_holds_what_so_many_leave_possible() -> None:
    right = np.array([0.0, 1.0] * 50)
    found = difference(right, right, seed=0)
    bound = stats.binomtest(0, 100).proportion_ci(0.95).high
    assert (found.value, found.p_value) == (0, 1)
    assert (found.low, found.high) == pytest.approx((-bound, bound))
    ratings = np.array([3.0, 7.0] * 50)
    assert (difference(ratings, ratings, seed=0).low, difference(ratings, ratings, seed=0).high) == (0, 0)
    sizes = np.full(100, 40.0)
    assert difference(right, right, sizes, seed=0).high == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_where_every_item_is_won_the_interval_holds_what_may_still_be_lost(sign: int) -> None:
    wrong, right = np.zeros(4), np.ones(4)
    found = difference(*(wrong, right)[::sign], seed=0)
    bound = stats.binomtest(0, 4).proportion_ci(0.95).high
    assert (found.value, found.p_value) == (sign, 0.125)
    assert sorted((sign * found.low, sign * found.high)) == pytest.approx([1 - 2 * bound, 1])  # lost, not only drawn


def test_scores_of_few_sizes_are_swapped_together_to_the_same_p_value() -> None:
    generator = np.random.default_rng(9)
    coarse = generator.choice([-1.0, -0.5, 0.0, 0.5, 1.0], size=200, p=[0.15, 0.15, 0.3, 0.2, 0.2])
    fine = coarse + np.where(coarse == 0, 0, np.arange(200) * 1e-10)
    assert swap_test(coarse, 1) == pytest.approx(swap_test(fine, 1), abs=0.012)
    assert swap_test(coarse, 1) < 0.2


def test_questions_on_one_document_are_swapped_together() -> None:
    generator = np.random.default_rng(10)
    documents = np.repeat(np.arange(20), 10)
    shift = np.repeat(generator.normal(0, 1, 20), 10)  # what B does better or worse on a document, by chance
    a = generator.normal(0, 1, 200)
    unaware = difference(a, a + shift, seed=0)
    aware = difference(a, a + shift, None, documents, seed=0)
    assert aware.value == pytest.approx(unaware.value)
    assert aware.standard_error > 2.5 * unaware.standard_error
    assert aware.p_value > unaware.p_value
    assert aware.clusters == 20
