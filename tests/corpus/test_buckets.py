from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.corpus import buckets
from slm.corpus.buckets import DIGEST, Repeat, digest, read_digests, repeats


def expected(units: list[list[str]]) -> dict[int, list[Repeat]]:
    """The same by a dictionary in memory."""
    seen: dict[str, list[tuple[int, int]]] = {}
    found: dict[int, list[Repeat]] = {number: [] for number in range(len(units))}
    for unit, texts in enumerate(units):
        for row, text in enumerate(texts):
            places = seen.setdefault(text, [])
            if places:
                found[unit].append(Repeat(row, *places[0], len(places)))
            places.append((unit, row))
    return found


def digests(texts: list[str]) -> np.ndarray:
    return np.frombuffer(b"".join(map(digest, texts)), dtype=DIGEST)


def measured(units: list[list[str]], folder: Path) -> dict[int, list[Repeat]]:
    found = repeats((digests(texts) for texts in units), sum(map(len, units)), folder)
    return {number: list(found.of_unit(number)) for number in range(len(units))}


@given(units=st.lists(st.lists(st.sampled_from("abcdefgh")), max_size=40), small=st.booleans())
def test_repeats_are_those_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, units: list[list[str]], small: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "BUCKET_BYTES", 48 if small else 1 << 20)
        folder = tmp_path_factory.mktemp("buckets")
        assert measured(units, folder) == expected(units)
        assert not list(folder.glob("bucket-*"))


def test_many_buckets_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    units = [[str(number) for number in draw.integers(0, 3_000, 500)] for _ in range(40)]
    one = measured(units, tmp_path / "one")
    monkeypatch.setattr(buckets, "BUCKET_BYTES", 10_000)
    many = measured(units, tmp_path / "many")
    assert one == many == expected(units)
    assert sum(map(len, one.values())) > 16_000


def test_digests_come_back_from_a_file_up_to_the_count_asked_for(tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(b"".join(map(digest, "abc")))
    assert read_digests(tmp_path / "ids", 2).tolist() == digests(["a", "b"]).tolist()
