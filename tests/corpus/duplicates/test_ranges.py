from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.corpus.duplicates import ranges
from slm.corpus.duplicates.ranges import Ranges, copies_in_range, even_borders, pairs_in_range, sampled_borders


def test_ranges_give_all_rows_back_in_the_order_of_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1000)
    generator = np.random.default_rng(1)
    rows = generator.integers(0, 1 << 64, (1000, 2), dtype=np.uint64)
    borders = even_borders(1000, 2)
    assert len(borders) == 15
    made = Ranges(tmp_path, "x", 2, borders)
    with made:
        for part in np.array_split(rows, 7):
            made.add(part[:, 0], part)
    parts = list(made)
    assert made.rows == sum(map(len, parts)) == 1000
    assert max(map(len, parts)) < 120
    assert all(one[:, 0].max() < other[:, 0].min() for one, other in pairwise(parts))
    assert sorted(map(tuple, np.concatenate(parts))) == sorted(map(tuple, rows))
    made.delete()
    assert not list(tmp_path.iterdir())


def test_borders_from_a_sample_cut_uneven_keys_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "RANGE_BYTES", 800)
    keys = np.random.default_rng(1).integers(0, 1000, 500, dtype=np.uint64) + np.uint64(5 << 40)
    borders = sampled_borders(keys, 500, 2)
    sizes = np.bincount(np.searchsorted(borders, keys, side="right"), minlength=len(borders) + 1)
    assert len(sizes) == 10
    assert sizes.max() < 75
    assert len(sampled_borders(np.empty(0, np.uint64), 0, 2)) == 0


rows_of = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 11)), unique=True, max_size=40)


@given(rows_of, st.permutations(range(12)), st.integers(1, 12))
def test_pairs_are_all_that_share_a_key_but_those_of_a_crowd(
    rows: list[tuple[int, int]], order: list[int], crowd: int
) -> None:
    expected = []
    for key in {key for key, _ in rows}:
        members = sorted((document for found, document in rows if found == key), key=lambda document: order[document])
        for one, other in combinations(range(len(members)), 2):
            if len(members) <= crowd or one < crowd:
                expected.append((members[other], members[one]))
    portions, crowded = pairs_in_range(np.array(rows, np.uint64).reshape(-1, 2), np.array(order, np.uint64), crowd)
    assert sorted(tuple(pair) for portion in portions for pair in portion.tolist()) == sorted(expected)
    assert crowded == sum(count > crowd for count in Counter(key for key, _ in rows).values())


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=12), st.permutations(range(12)))
def test_copies_point_to_the_first_in_order_with_both_halves_of_the_digest(
    digests: list[tuple[int, int]], order: list[int]
) -> None:
    rows = np.array([(*digest, number) for number, digest in enumerate(digests)], np.uint64).reshape(-1, 3)
    expected = set()
    for number, digest in enumerate(digests):
        first = min((n for n, other in enumerate(digests) if other == digest), key=lambda n: order[n])
        if first != number:
            expected.add((number, first))
    assert set(map(tuple, copies_in_range(rows, np.array(order, np.uint64)).tolist())) == expected
