"""The keyed permutation: one-to-one for any size, equal to a plain reference, and a good shuffle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm.shards.order import ROUNDS, SMALLEST_HALF, permute, permute_many

WORD = (1 << 64) - 1


def permutation(size: int, seed: int) -> np.ndarray:
    return permute_many(np.arange(size), size, np.full(size, seed, dtype=np.uint64))


def reference(index: int, size: int, seed: int) -> int:
    """The same network in Python's own integers."""

    def mixed(word: int) -> int:
        word = ((word ^ word >> 30) * 0xBF58476D1CE4E5B9) & WORD
        word = ((word ^ word >> 27) * 0x94D049BB133111EB) & WORD
        return word ^ word >> 31

    a = max(SMALLEST_HALF, math.isqrt(size - 1) + 1)
    b = max(SMALLEST_HALF, -(-size // a))
    keys = [mixed((seed + number * 0x9E3779B97F4A7C15) & WORD) for number in range(1, ROUNDS + 1)]
    value = index
    while True:
        left, right = divmod(value, b)
        for first, second in zip(keys[::2], keys[1::2], strict=True):
            left = (left + mixed(right ^ first) % a) % a
            right = (right + mixed(left ^ second) % b) % b
        value = left * b + right
        if value < size:
            return value


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 5_000), st.integers(0, 2**63 - 1))
def test_each_index_of_any_size_is_hit_exactly_once(size, seed):
    assert sorted(permutation(size, seed).tolist()) == list(range(size))


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 2**62), st.integers(0, 2**63 - 1))
def test_it_equals_the_plain_reference(data, size, seed):
    index = data.draw(st.integers(0, size - 1))
    assert permute(index, size, seed) == reference(index, size, seed)


def test_each_index_may_have_a_seed_of_its_own():
    seeds = np.array([3, 4, 3], dtype=np.uint64)
    together = permute_many(np.array([5, 5, 9]), 1_000, seeds)
    assert together.tolist() == [permute(5, 1_000, 3), permute(5, 1_000, 4), permute(9, 1_000, 3)]


def test_an_index_outside_the_size_is_an_error():
    with pytest.raises(ValueError, match=r"0\.\.9"):
        permute(10, 10, 0)


@pytest.mark.parametrize("size", [3, 4, 5])
def test_small_sizes_reach_every_permutation_about_equally_often(size):
    draws = 300 * math.factorial(size)
    indices = np.tile(np.arange(size), draws)
    seeds = np.repeat(np.arange(draws, dtype=np.uint64) * np.uint64(7919), size)
    found = permute_many(indices, size, seeds).reshape(draws, size)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == math.factorial(size)
    chi_square = float(((counts - 300) ** 2 / 300).sum())
    freedom = math.factorial(size) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [64, 1_000, 4_096])
def test_every_index_goes_everywhere_equally_often(size):
    """Over many seeds, each of 16 stretches of the input lands evenly on 16 stretches of the output."""
    table = np.zeros((16, 16))
    index = np.arange(size)
    rounds = 16_384 // size + 40
    for seed in range(rounds):
        np.add.at(table, (index * 16 // size, permutation(size, seed) * 16 // size), 1)
    expected = rounds * size / 256
    assert ((table - expected) ** 2 / expected).sum() < 225 + 5 * math.sqrt(450)


def test_neighbours_and_epochs_are_unrelated():
    size = 20_000
    one, other = permutation(size, 1), permutation(size, 2)
    limit = 5 / math.sqrt(size)
    assert abs(np.corrcoef(one, np.arange(size))[0, 1]) < limit
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < limit
    assert abs(np.corrcoef(one, other)[0, 1]) < limit
    steps = np.diff(one)
    assert (steps == 1).sum() < 10  # about 1 in a random permutation
    assert len(np.unique(steps)) > 0.55 * len(steps)  # a network of linear rounds repeats its differences
    assert abs(np.abs(steps).mean() / (size / 3) - 1) < 0.03  # the mean distance of two random rows


def test_fixed_points_and_cycles_are_those_of_random_permutations():
    fixed = [int((permutation(500, seed) == np.arange(500)).sum()) for seed in range(400)]
    assert 0.75 < np.mean(fixed) < 1.25
    assert 0.7 < np.var(fixed) < 1.35
    parities = [parity(permutation(37, seed)) for seed in range(400)]
    assert 150 < sum(parities) < 250


def parity(order: np.ndarray) -> int:
    """0 for an even permutation, 1 for an odd one."""
    seen, swaps = set(), 0
    for first in range(len(order)):
        place, length = first, 0
        while place not in seen:
            seen.add(place)
            place, length = int(order[place]), length + 1
        swaps += max(0, length - 1)
    return swaps % 2
