"""Randomness keyed by purpose."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slm.core.seeds import derive

purposes = st.lists(st.one_of(st.text(st.characters(exclude_characters="\x1f"), max_size=5), st.integers()), max_size=3)


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert derive(1234, "init") == 4_849_882_232_466_135_868
    assert derive(1234, "order", 0) == 311_936_243_267_326_248


@given(st.integers(0, 2**63), purposes)
def test_a_seed_has_63_bits_and_depends_on_nothing_else(seed: int, purpose: list[str | int]) -> None:
    assert 0 <= derive(seed, *purpose) < 2**63
    assert derive(seed, *purpose) == derive(seed, *purpose)


def test_seeds_of_neighbours_differ() -> None:
    drawn = [derive(seed, purpose, step) for seed in range(10) for purpose in ("a", "b") for step in range(10)]
    assert len(set(drawn)) == len(drawn)
    assert derive(1, "ab") != derive(1, "a", "b")
    assert derive(1, "a", 11) != derive(1, "a", 1, 1)


def test_bits_are_balanced() -> None:
    ones = sum(derive(seed, "x").bit_count() for seed in range(2000)) / (2000 * 63)
    assert abs(ones - 0.5) < 0.01
