"""Trees hold every request once, share what is shared, and fit into rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slm.evaluate.tree import PREFIX, Family, Request, Row, bins, common, ends, plan_families


def request(ids: list[int], first: int) -> Request:
    return Request(np.array(ids, dtype=np.int32), first)


def path(row: Row, place: int, prefix: np.ndarray) -> list[int]:
    """The ids that a place sees, in order: what the mask must mean."""
    seen = [n for n in range(place + 1) if n == place or row.ends_N[n] > place]
    assert row.positions_N[seen].tolist() == list(range(len(prefix), len(prefix) + len(seen)))
    return [*prefix.tolist(), *row.tokens_N[seen].tolist()]


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 2), min_size=2, max_size=14), st.integers(1, 13)), min_size=1, max_size=30
    ),
    st.booleans(),
)
def test_each_scored_place_sees_exactly_what_stands_before_it(drawn, long_prefix):
    shared = [7] * 40 if long_prefix else []
    requests = [request(shared + ids, min(first, len(ids) - 1) + len(shared)) for ids, first in drawn]
    families = plan_families(requests, 48)
    found: set[int] = set()
    for family in families:
        for row in family.rows:
            for number, places in row.scored:
                ids, first = requests[number].ids.tolist(), requests[number].first
                assert number not in found
                found.add(number)
                assert len(places) == len(ids) - first
                for target, place in zip(range(first, len(ids)), places, strict=True):
                    before = family.prefix.tolist() if place == PREFIX else path(row, int(place), family.prefix)
                    assert before == ids[:target]
    assert found == set(range(len(requests)))


def test_choices_share_their_question():
    requests = [request([1, 2, 3, 4, choice, 9], 4) for choice in (5, 6, 7, 8)]
    (family,) = plan_families(requests, 64)
    assert len(family.prefix) == 0
    (row,) = family.rows
    assert row.tokens_N.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_examples_in_front_of_many_items_are_computed_once():
    few_shot = list(range(100, 150))
    items = [request([*few_shot, item, item, item, choice, 1], 53) for item in range(40) for choice in (201, 202)]
    (family,) = plan_families(items, 48)
    assert family.prefix.tolist() == few_shot
    assert sum(len(row.tokens_N) for row in family.rows) == 40 * 5
    assert len(family.rows) == 5  # nine items of five places fit into one of 48


def test_a_question_has_a_row_of_its_own_but_behind_a_prefix_rows_are_nearly_full():
    generator = np.random.default_rng(0)
    texts = [generator.integers(5, 900, size=generator.integers(10, 60)).tolist() for _ in range(500)]
    (family,) = plan_families([request([1, *text], 5) for text in texts], 128)
    assert sorted(len(row.tokens_N) for row in family.rows) == sorted(len(text) for text in texts)
    (family,) = plan_families([request([*range(901, 941), *text], 45) for text in texts], 128)
    assert sum(len(row.tokens_N) for row in family.rows) / (128 * len(family.rows)) > 0.98


def test_rows_stay_short_where_everything_begins_alike():
    items = [request([*range(20), 50 + item, 7, 7, 7, 7, 7, 7, 7, 7, item, 3], 29) for item in range(9)]
    rows = [row for family in plan_families(items, 64) for row in family.rows]
    assert max(len(row.tokens_N) for row in rows) <= 64


def test_a_question_stays_whole_where_its_choices_fill_more_than_a_row():
    question, choices = list(range(40)), [[100 + choice] * 20 for choice in range(4)]
    (family,) = plan_families([request([*question, *choice], 40) for choice in choices], 64)
    assert [len(row.tokens_N) for row in family.rows] == [40 + 4 * 19]


def test_one_long_request_has_a_row_of_its_own():
    families: list[Family] = plan_families([request(list(range(300)), 10), request([5, 6, 7], 1)], 64)
    assert sorted(len(row.tokens_N) for family in families for row in family.rows) == [2, 299]


@given(st.lists(st.integers(1, 20), max_size=40))
def test_bins_hold_every_size_once_and_are_never_overfull(sizes):
    found = bins(sizes, 12)
    assert sorted(number for one in found for number in one) == list(range(len(sizes)))
    assert all(len(one) == 1 or sum(sizes[number] for number in one) <= 12 for one in found)


def test_ends_and_common_beginnings_follow_their_definitions():
    assert ends(np.array([0, 1, 2, 2, 1, 0, 1])).tolist() == [5, 4, 3, 4, 5, 7, 7]
    assert common(np.array([1, 2, 3]), np.array([1, 2, 4, 5])) == 2
    assert common(np.array([1, 2]), np.array([1, 2, 4])) == 2
