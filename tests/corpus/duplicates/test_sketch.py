from __future__ import annotations

import dataclasses
import random
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rensa import RMinHash

from slm.core.errors import DamagedError, UserError
from slm.corpus.duplicates.config import DuplicatesConfig
from slm.corpus.duplicates.sketch import (
    Scheme,
    Sketcher,
    band_keys,
    read_sketches,
    signatures,
    text_digest,
    write_sketches,
)
from tests.corpus.duplicates.planted import planted_pair

SCHEME = Scheme.of(DuplicatesConfig())


def pairs_of(similarity: Fraction, size: int, count: int, seed: int) -> list[tuple[str, str]]:
    generator = random.Random(seed)
    return [planted_pair(similarity, size, generator) for _ in range(count)]


def datasketch_signatures(sets: list[list[int]], num_values: int) -> np.ndarray:
    datasketch = pytest.importorskip("datasketch")
    made = []
    for one in sets:
        minhash = datasketch.MinHash(num_perm=num_values, seed=1, hashfunc=lambda value: value & 0xFFFFFFFF)
        minhash.update_batch(one)
        made.append(minhash)
    return made


def test_the_scheme_names_library_version_and_shape() -> None:
    assert SCHEME.record() == {
        "algorithm": "rensa R-MinHash", "algorithm_version": RMinHash.ALGORITHM_VERSION, "hashing_version": 1,
        "shingle_words": 5, "bands": 14, "rows": 8, "seed": 42,
    }  # fmt: skip


def test_sketches_of_one_text_do_not_depend_on_its_neighbours() -> None:
    sketcher = Sketcher(SCHEME)
    texts = [
        "one two three four five six seven",
        "",
        "short",
        "日本語の文章です",
        "one two three four five six seven eight",
    ]
    together = sketcher.keys(texts)
    for number, text in enumerate(texts):
        assert (sketcher.keys([text])[0] == together[number]).all()
    assert together.shape == (5, 14)
    assert len(np.unique(together[:4])) == 4 * 14


def test_shingles_are_the_runs_of_five_words_of_each_text() -> None:
    shingles, borders = Sketcher(SCHEME).shingles(["a b c d e f", "a b", "", "b c d e f"])
    assert borders.tolist() == [0, 2, 3, 4, 5]
    assert shingles[1] == shingles[4]
    assert len(set(shingles.tolist())) == 4


def test_values_of_a_scheme_stay_what_they_are() -> None:
    keys = Sketcher(SCHEME).keys(["The quick brown fox jumps over the lazy dog, and runs."])
    assert keys[0, :2].tolist() == PINNED, "raise HASHING_VERSION with any change to hashing"


PINNED = [7718589371813330027, 15591947262898546137]


def test_digests_are_equal_only_for_equal_texts_but_for_case_and_white_space() -> None:
    assert text_digest("Été  is\nhere") == text_digest("e\u0301te\u0301 IS here ")
    assert text_digest("x = -1") != text_digest("x = 1")


def test_estimates_err_as_those_of_datasketch() -> None:
    errors: dict[str, list[float]] = {"rensa": [], "datasketch": []}
    for tenth in (5, 6, 7, 8, 9):
        pairs = pairs_of(Fraction(tenth, 10), 180, 120, seed=tenth)
        shingles, borders = Sketcher(SCHEME).shingles([text for pair in pairs for text in pair])
        ours = signatures(shingles, borders, 112)
        sets = [shingles[a:b].tolist() for a, b in pairwise(borders)]
        theirs = np.array([one.hashvalues for one in datasketch_signatures(sets, 112)])
        for name, values in (("rensa", ours), ("datasketch", theirs)):
            errors[name] += list((values[0::2] == values[1::2]).mean(axis=1) - tenth / 10)
    spread = {name: float(np.std(found)) for name, found in errors.items()}
    assert all(abs(np.mean(found)) < 0.006 for found in errors.values()), "biased"
    assert 0.6 < spread["rensa"] / spread["datasketch"] < 1.1
    assert spread["datasketch"] == pytest.approx(
        np.sqrt(np.mean([j * (1 - j) for j in (0.5, 0.6, 0.7, 0.8, 0.9)]) / 112), rel=0.1
    )


@pytest.mark.parametrize(("similarity", "size"), [(Fraction(7, 10), 34), (Fraction(4, 5), 18), (Fraction(4, 5), 270)])
def test_as_many_pairs_are_candidates_as_with_datasketch(similarity: Fraction, size: int) -> None:
    datasketch = pytest.importorskip("datasketch")
    pairs = pairs_of(similarity, size, 600, seed=size)
    shingles, borders = Sketcher(SCHEME).shingles([text for pair in pairs for text in pair])
    keys = band_keys(signatures(shingles, borders, 112), 14, 8)
    ours = (keys[0::2] == keys[1::2]).any(axis=1).mean()
    minhashes = datasketch_signatures([shingles[a:b].tolist() for a, b in pairwise(borders)], 112)
    index = datasketch.MinHashLSH(num_perm=112, params=(14, 8))
    for number, minhash in enumerate(minhashes[0::2]):
        index.insert(number, minhash)
    theirs = np.mean([number in index.query(minhash) for number, minhash in enumerate(minhashes[1::2])])
    expected = 1 - (1 - float(similarity) ** 8) ** 14
    assert abs(ours - theirs) < 0.06
    assert abs(ours - expected) < 0.05


def test_signatures_stay_far_faster_than_those_of_datasketch() -> None:
    """Half of what `scripts/bench_data.py --only minhash` asks for: here other tests share caches and cores."""
    pytest.importorskip("datasketch")
    generator = np.random.default_rng(1)
    sets = generator.integers(0, 1 << 63, (400, 289), dtype=np.uint64)
    borders = np.arange(401, dtype=np.int64) * 289
    lists = [row.tolist() for row in sets]
    ours, theirs = [], []
    for _ in range(5):
        began = time.process_time()
        signatures(sets.ravel(), borders, 112)
        between = time.process_time()
        datasketch_signatures(lists, 112)
        ours.append(between - began)
        theirs.append(time.process_time() - between)
    assert min(theirs) >= 5 * min(ours)


def test_files_give_back_what_was_written_as_far_as_asked(tmp_path: Path) -> None:
    sketches = Sketcher(SCHEME).sketch(["1", "2", "3"], ["a text", "another", "third"])
    write_sketches(tmp_path / "s", SCHEME, [sketches, sketches])
    found = list(read_sketches(tmp_path / "s", SCHEME, 4))
    assert [len(batch.order_D) for batch in found] == [3, 1]
    assert (found[0].keys_DB == sketches.keys_DB).all()
    assert (found[1].digest_D2 == sketches.digest_D2[:1]).all()
    with pytest.raises(DamagedError, match=r"holds 6 sketches, 7 are needed; delete it"):
        list(read_sketches(tmp_path / "s", SCHEME, 7))


def test_without_near_a_sketch_is_a_digest(tmp_path: Path) -> None:
    scheme = Scheme.of(DuplicatesConfig(near=False))
    write_sketches(tmp_path / "s", scheme, [Sketcher(scheme).sketch(["1"], ["a text"])])
    (found,) = read_sketches(tmp_path / "s", scheme, 1)
    assert found.keys_DB.shape == (1, 0)


@pytest.mark.parametrize(
    "change", [{"algorithm_version": 1}, {"algorithm": "C-MinHash"}, {"rows": 7}, {"hashing_version": 0}]
)
def test_sketches_of_two_schemes_never_meet(change: dict[str, str | int], tmp_path: Path) -> None:
    other = dataclasses.replace(SCHEME, **change)
    write_sketches(tmp_path / "s", other, [Sketcher(SCHEME).sketch(["1"], ["text"])])
    ((name, value),) = change.items()
    expected = f"another scheme \\({name} {value}, here {getattr(SCHEME, name)}\\)"
    with pytest.raises(UserError, match=expected):
        list(read_sketches(tmp_path / "s", SCHEME, 1))


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_sketches(path, SCHEME, [Sketcher(SCHEME).sketch(["1"], ["text"])])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DamagedError, match="not a whole file of sketches"):
        list(read_sketches(path, SCHEME, 1))
