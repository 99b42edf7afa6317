"""Is B better than A on the same items? The difference, its interval, and how often chance alone would give as much.

In: the numerators of both over the same denominators, item by item, and the clusters of items that share a document.
Out: the difference B - A of the two ratios. Its interval resamples clusters, A and B of one item together, so what
makes an item hard for both cancels: between two similar models this interval is several times narrower than either's
own. Where scores between 0 and 1 all differ by 0, or all by 1, it ends at the rate of other items that so many equal
ones leave possible. The p value is that of swapping A and B at random within each cluster (a permutation test on
paired samples, Fisher 1935), which assumes nothing about how scores are distributed; it is two-sided.

Exact where that is cheap: all swaps of up to 13 clusters, and the binomial law where all differences are of one
size, which makes it the exact test of McNemar for 0-or-1 scores. Else 10,000 random swaps, whose smallest p value is
1/10,001. Checked against scipy.stats.permutation_test, binomtest and bootstrap, 30 times as slow on 1,000 items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slm.evaluate.statistics.intervals import (
    Floats,
    Integers,
    all_are,
    cluster_sums,
    interval,
    standard_error,
    widened,
)

SWAPS = 10_000
ALL_SWAPS_OF = 13
"""2 ** 13 swaps are fewer than the random ones."""
ROUNDING = 1e-12
"""Sums that differ by less, relative to the sum of all sizes, are equal."""
DRAWN_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True)
class Difference:
    """B - A with its 95 % interval and the two-sided p value of no difference."""

    value: float
    standard_error: float
    low: float
    high: float
    p_value: float
    items: int
    clusters: int


def difference(
    a_N: Floats,
    b_N: Floats,
    denominators_N: Floats | None = None,
    clusters_N: Integers | None = None,
    *,
    seed: int,
) -> Difference:
    """The paired difference of two runs on identical items."""
    rows_C2 = cluster_sums(b_N - a_N, denominators_N, clusters_N)
    low, high = interval(rows_C2, seed)
    scores = all_are(1, denominators_N) and min(a_N.min(), b_N.min()) >= 0 and max(a_N.max(), b_N.max()) <= 1
    if scores and b_N[0] - a_N[0] in (-1, 0, 1) and all_are(b_N[0] - a_N[0], b_N - a_N):
        low, high = widened(b_N[0] - a_N[0], -1, len(rows_C2))
    value = float(rows_C2[:, 0].sum() / rows_C2[:, 1].sum())
    error = standard_error(rows_C2)
    return Difference(value, error, low, high, swap_test(rows_C2[:, 0], seed), len(a_N), len(rows_C2))


def swap_test(differences_C: Floats, seed: int) -> float:
    """Two-sided p value: the share of swaps whose sum of differences is at least as far from 0."""
    sizes_C = np.abs(differences_C[differences_C != 0])
    if not len(sizes_C):
        return 1.0
    slack = ROUNDING * float(sizes_C.sum())
    reached = abs(float(differences_C.sum())) - slack
    if float(np.ptp(sizes_C)) <= ROUNDING * float(sizes_C.max()):
        return _binomial(len(sizes_C), int((differences_C > 0).sum()))
    if len(sizes_C) <= ALL_SWAPS_OF:
        signs = 1 - 2 * ((np.arange(1 << len(sizes_C))[:, None] >> np.arange(len(sizes_C))) & 1)
        return float((np.abs(signs @ sizes_C) >= reached).mean())
    return (1 + int((np.abs(_random_swaps(sizes_C, seed)) >= reached).sum())) / (1 + SWAPS)


def _binomial(trials: int, successes: int) -> float:
    from scipy.special import bdtr

    return float(min(1.0, 2 * bdtr(min(successes, trials - successes), trials, 0.5)))


def _random_swaps(sizes_C: Floats, seed: int) -> Floats:
    """Sums of the sizes with random signs; equal sizes are drawn together."""
    generator = np.random.Generator(np.random.Philox(seed))
    different_U, counts_U = np.unique(sizes_C, return_counts=True)
    if 4 * len(different_U) <= len(sizes_C):
        return np.asarray((2 * generator.binomial(counts_U, 0.5, size=(SWAPS, len(counts_U))) - counts_U) @ different_U)
    sums_R = np.empty(SWAPS)
    at_once = max(1, DRAWN_AT_ONCE // len(sizes_C))
    for first in range(0, SWAPS, at_once):
        count = min(at_once, SWAPS - first)
        bytes_RB = generator.integers(256, size=(count, -(-len(sizes_C) // 8)), dtype=np.uint8)
        plus_RC = np.unpackbits(bytes_RB, axis=1, count=len(sizes_C))
        sums_R[first : first + count] = 2 * (plus_RC.astype(np.float64) @ sizes_C) - sizes_C.sum()
    return sums_R
