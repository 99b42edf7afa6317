"""Packing: every token a target once, nothing dropped, rows never too long, little padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm.shards.pack import Packing, pack

LENGTHS = st.lists(st.integers(1, 200), min_size=0, max_size=60)
METHODS = st.sampled_from(["best_fit", "concat"])


def check(lengths: list[int], seq_len: int, packing: Packing) -> None:
    """Everything that holds for any packing."""
    targets = [np.zeros(length, dtype=int) for length in lengths]
    for document, start, length in zip(packing.document_P, packing.start_P, packing.length_P, strict=True):
        assert length >= 1
        targets[document][start + 1 : start + length] += 1
        assert start + length <= lengths[document]
    for count in targets:
        assert count[0] == 0
        assert (count[1:] == 1).all()
    assert set(packing.document_P.tolist()) == set(range(len(lengths)))
    assert (np.diff(packing.row_P) >= 0).all()
    used = np.bincount(packing.row_P, weights=packing.length_P, minlength=packing.num_rows)
    assert len(used) == packing.num_rows
    assert (used <= seq_len).all()
    assert (used > 0).all()


@settings(max_examples=150, deadline=None)
@given(LENGTHS, st.integers(2, 64), METHODS)
def test_every_token_but_the_first_of_a_document_is_a_target_exactly_once(lengths, seq_len, method):
    check(lengths, seq_len, pack(np.array(lengths, dtype=np.int64), seq_len, method))


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(2, 64))
def test_a_document_that_fits_in_a_row_is_never_cut(lengths, seq_len):
    packing = pack(np.array(lengths, dtype=np.int64), seq_len, "best_fit")
    pieces = np.bincount(packing.document_P, minlength=len(lengths))
    assert all(pieces[number] == 1 for number, length in enumerate(lengths) if length <= seq_len)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 16), min_size=1, max_size=80))
def test_short_documents_go_where_best_fit_decreasing_puts_them(lengths):
    """Against the textbook: longest first, into the fullest row with room, else into a new one."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms[rooms.index(min(fitting))] -= length
        else:
            rooms.append(16 - length)
    packing = pack(np.array(lengths, dtype=np.int64), 16, "best_fit")
    used = np.bincount(packing.row_P, weights=packing.length_P)
    assert sorted(16 - used) == sorted(rooms)


MIXES: dict[str, list[tuple[int, float, float]]] = {
    "web pages": [(8_000, 490, 1.0)],
    "articles": [(2_400, 3_400, 1.2)],
    "stories": [(20_000, 200, 0.4)],
    "questions and answers": [(30_000, 60, 0.9)],
    "books": [(8, 120_000, 0.5)],
    "code": [(3_000, 900, 1.5)],
    "everything": [(4_000, 490, 1.0), (6_000, 200, 0.4), (6_000, 60, 0.9), (3, 120_000, 0.5), (1_000, 900, 1.5)],
}
"""Documents, their median length in tokens, and the spread of its logarithm."""


def drawn(mix: str, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    parts = [generator.lognormal(np.log(median), spread, number) for number, median, spread in MIXES[mix]]
    return generator.permutation(np.concatenate(parts)).astype(np.int64) + 2


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("seq_len", [256, 512, 2048])
@pytest.mark.parametrize("seed", range(2))
def test_realistic_mixes_fill_999_of_1000_places_and_lose_no_token(mix, seq_len, seed):
    lengths = drawn(mix, seed)
    packing = pack(lengths, seq_len, "best_fit")
    padding = 1 - packing.length_P.sum() / (packing.num_rows * seq_len)
    # A window may end in a row that is not full, which weighs the more the fewer rows it has.
    assert padding <= max(0.001, 1 / packing.num_rows)
    overlap = len(packing.document_P) - len(lengths)
    assert packing.length_P.sum() == lengths.sum() + overlap  # each further piece repeats one token
    targets = np.bincount(packing.document_P, weights=packing.length_P - 1, minlength=len(lengths))
    assert (targets == lengths - 1).all()


@pytest.mark.parametrize("mix", ["web pages", "articles", "books", "everything"])
def test_documents_that_fit_stay_whole_where_rows_fill_without_cutting_them(mix):
    lengths = drawn(mix, 0)
    packing = pack(lengths, 512, "best_fit")
    pieces = np.bincount(packing.document_P, minlength=len(lengths))
    assert (pieces[lengths <= 512] == 1).all()


def test_where_they_do_not_few_documents_are_cut_and_those_into_many_pieces():
    lengths = drawn("stories", 0)
    packing = pack(lengths, 256, "best_fit")
    pieces = np.bincount(packing.document_P, minlength=len(lengths))
    cut = (pieces > 1) & (lengths <= 256)
    check(lengths.tolist(), 256, packing)
    assert 0 < cut.mean() < 0.15
    together = pack(lengths, 256, "concat")
    assert (np.bincount(together.document_P)[lengths <= 256] > 1).mean() > 0.6


def test_few_rows_are_not_filled_by_cutting_documents():
    lengths = np.full(600, 9)
    assert pack(lengths, 16, "best_fit").num_rows == 600
    many = np.full(2_000, 9)
    packing = pack(many, 16, "best_fit")
    check(many.tolist(), 16, packing)
    assert packing.num_rows < 1_300


def test_the_emptiest_rows_are_dissolved_into_the_gaps_of_others():
    # Tails of 11 each fill no row together; one of four, cut again, fills the gaps of the other three.
    lengths = np.array([16 + 10] * 4)
    packing = pack(lengths, 16, "best_fit")
    check(lengths.tolist(), 16, packing)
    assert packing.num_rows == 4 + 3


def test_a_cut_never_lands_in_a_row_that_is_being_dissolved():
    lengths = np.array([17, 17, 17, 14, 14, 14])
    packing = pack(lengths, 16, "best_fit")
    check(lengths.tolist(), 16, packing)
    assert packing.num_rows == 3 + 3


def test_concat_cuts_at_the_end_of_each_row_and_carries_one_token_over():
    packing = pack(np.array([5, 9, 3]), 8, "concat")
    pieces = list(zip(packing.row_P, packing.document_P, packing.start_P, packing.length_P, strict=True))
    assert pieces == [(0, 0, 0, 5), (0, 1, 0, 3), (1, 1, 2, 7), (2, 2, 0, 3)]


def test_packing_is_a_function_of_its_arguments():
    lengths = np.random.default_rng(0).integers(1, 500, 2_000)
    one, other = pack(lengths, 64, "best_fit"), pack(lengths, 64, "best_fit")
    for name in ("document_P", "start_P", "length_P", "row_P"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_nothing_packs_into_no_rows():
    for method in ("best_fit", "concat"):
        assert pack(np.array([], dtype=np.int64), 16, method).num_rows == 0
