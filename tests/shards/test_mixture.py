"""The stream of rows: whole epochs, exact shares, any position at once."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.shards.mixture import BLOCK_ROWS, apportion, mix
from slm.shards.order import permute

RANGES = {"code": range(700), "prose": range(700, 1000), "tiny": range(1000, 1007)}
WEIGHTS = {"code": 0.5, "prose": 0.45, "tiny": 0.05}


def defined_row(position: int, seed: int) -> int:
    """What the mixture's description says stands at `position`, one position at a time."""
    quotas = apportion(WEIGHTS, BLOCK_ROWS)
    names = list(WEIGHTS)
    slots = sorted(((2 * i + 1) / (2 * quotas[n]), names.index(n), i) for n in names for i in range(quotas[n]))
    block, slot = divmod(position, BLOCK_ROWS)
    _, number, rank = slots[slot]
    name = names[number]
    rows = RANGES[name]
    epoch, inside = divmod(block * quotas[name] + rank, len(rows))
    return rows.start + permute(inside, len(rows), derive(seed, "order", name, epoch))


def test_without_weights_each_row_comes_exactly_once_an_epoch():
    mixture = mix(RANGES, {}, seed=5)
    first, second = mixture.rows(0, 1007), mixture.rows(1007, 1007)
    assert sorted(first.tolist()) == list(range(1007))
    assert sorted(second.tolist()) == list(range(1007))
    assert (first != second).mean() > 0.95


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5_000), st.integers(1, 3_000), st.sampled_from([{}, WEIGHTS]))
def test_a_stretch_equals_its_positions_taken_one_by_one(first, count, weights):
    mixture = mix(RANGES, weights, seed=1)
    found = mixture.rows(first, count)
    for offset in {0, count // 2, count - 1}:
        assert found[offset] == mixture.rows(first + offset, 1)[0]


@pytest.mark.parametrize("position", [0, 1, 1023, 1024, 50_001, 10**12, 10**15])
def test_a_far_position_is_instant_and_equals_the_definition(position):
    mixture = mix(RANGES, WEIGHTS, seed=9)
    began = time.perf_counter()
    row = int(mixture.rows(position, 1)[0])
    assert time.perf_counter() - began < 0.1
    assert row == defined_row(position, 9)


def test_each_block_holds_each_source_in_its_share_and_evenly_spread():
    mixture = mix(RANGES, WEIGHTS, seed=0)
    quotas = apportion(WEIGHTS, BLOCK_ROWS)
    for block in (0, 7, 10**9):
        assert mixture.count_sources(mixture.rows(block * BLOCK_ROWS, BLOCK_ROWS)) == quotas
    for part in range(8):
        counts = mixture.count_sources(mixture.rows(part * 128, 128))
        assert all(abs(counts[name] - quotas[name] / 8) <= 2 for name in quotas)


def test_each_source_runs_through_epochs_of_its_own():
    mixture = mix(RANGES, WEIGHTS, seed=3)
    rows = mixture.rows(0, 20 * BLOCK_ROWS)
    for source in RANGES.values():
        mine = rows[(rows >= source.start) & (rows < source.stop)]
        for epoch in range(len(mine) // len(source)):
            assert sorted(mine[epoch * len(source) : (epoch + 1) * len(source)]) == list(source)


def test_another_seed_is_another_order():
    assert (mix(RANGES, {}, 1).rows(0, 100) != mix(RANGES, {}, 2).rows(0, 100)).mean() > 0.9


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=10), st.integers(300, 2_000))
def test_seats_follow_the_largest_remainders(weights, seats):
    named = {str(number): weight for number, weight in enumerate(weights)}
    quotas = apportion(named, seats)
    assert sum(quotas.values()) == seats
    assert all(abs(quotas[name] - seats * weight / sum(weights)) < 1 for name, weight in named.items())


def test_a_share_too_small_for_a_block_is_refused():
    with pytest.raises(UserError, match=r"shards\.weights\.tiny \(1e-05\) is less than one row in 1,024; raise it"):
        mix(RANGES, {"code": 1, "prose": 1, "tiny": 1e-5}, 0)


def test_a_weight_for_a_source_without_rows_is_refused():
    with pytest.raises(UserError, match=r"shards\.weights\.maths: the shards hold no row .*only code, prose, tiny"):
        mix(RANGES, {"code": 1, "maths": 1}, 0)


def test_counting_sources_covers_every_row():
    assert mix(RANGES, {}, 0).count_sources(np.arange(1007)) == {"code": 700, "prose": 300, "tiny": 7}
