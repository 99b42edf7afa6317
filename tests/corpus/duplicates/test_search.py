from __future__ import annotations

import random
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from slm.corpus.document import Document
from slm.corpus.duplicates import ranges
from slm.corpus.duplicates.config import PRESETS, DuplicatesConfig
from slm.corpus.duplicates.search import UnitSketches, find_duplicates
from slm.corpus.duplicates.signatures import FILE, Signer
from slm.corpus.duplicates.sketch import Scheme, Sketches, write_sketches
from tests.corpus.duplicates.planted import drops, plain_jaccard, planted_pair, words

SIMILARITIES = [Fraction(n, 20) for n in (10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)]


def planted(similarity: Fraction, size: int, count: int, seed: int) -> list[tuple[str, str]]:
    """`count` pairs as (id, text): pair 3 has the ids 3a and 3b."""
    generator = random.Random(seed)
    pairs = [planted_pair(similarity, size, generator) for _ in range(count)]
    return [
        (f"{number}{side}", text) for number, pair in enumerate(pairs) for side, text in zip("ab", pair, strict=True)
    ]


@pytest.mark.parametrize(("size", "count"), [(9, 600), (45, 600), (270, 400), (1800, 100)])
def test_pairs_alike_to_four_fifths_are_found(size: int, count: int, tmp_path: Path) -> None:
    documents = planted(Fraction(4, 5), size, count, seed=size)
    found, figures = drops(documents, tmp_path / "d")
    assert all(id[:-1] == other[:-1] and alike == 0.8 for id, (other, alike) in found.items())
    assert len(found) / count >= 0.90
    assert figures.near == len(found)


@pytest.mark.parametrize("size", [20, 150])
def test_of_all_similarities_only_those_from_the_threshold_on_are_dropped(size: int, tmp_path: Path) -> None:
    text_of: dict[str, str] = {}
    for similarity in SIMILARITIES:
        pairs = planted(similarity, size, 60, seed=int(similarity * 100) + size)
        text_of.update((f"{similarity}:{id}", text) for id, text in pairs)
    found, figures = drops(list(text_of.items()), tmp_path / "d")
    right = [id for id, (other, _) in found.items() if plain_jaccard(text_of[id], text_of[other]) >= Fraction(4, 5)]
    assert len(right) / len(found) >= 0.99  # precision
    alike = [similarity for similarity in SIMILARITIES if similarity >= Fraction(4, 5)]
    assert len(right) / (60 * len(alike)) >= 0.90  # recall
    assert all(alike == float(plain_jaccard(text_of[id], text_of[other])) for id, (other, alike) in found.items())
    assert figures.copies == sum(f"{Fraction(1)}:" == id[:2] for id in found)


@pytest.mark.parametrize("threshold", sorted(PRESETS))
def test_each_preset_finds_nine_of_ten_at_its_threshold(threshold: float, tmp_path: Path) -> None:
    documents = planted(Fraction(threshold).limit_denominator(20), 60, 500, seed=7)
    found, _ = drops(documents, tmp_path / "d", DuplicatesConfig(threshold=threshold))
    assert len(found) / 500 >= 0.90


def family(seed: int) -> list[tuple[str, str]]:
    """A text in ever further edited versions, others of its kind, and texts alone: chains and crowds of likeness."""
    generator = random.Random(seed)
    documents = []
    for number in range(30):
        version = words(120, generator)
        for step in range(generator.randrange(1, 9)):
            documents.append((f"{number}.{step}", " ".join(version)))
            version[generator.randrange(120)] = "edited"
    documents += [(f"copy of {id}", text.upper()) for id, text in documents[::7]]
    return documents


def test_order_and_number_of_parts_do_not_change_what_is_dropped(tmp_path: Path) -> None:
    documents = family(1)
    expected, _ = drops(documents, tmp_path / "whole")
    assert len(expected) > 20
    for parts in range(1, 8):
        random.Random(parts).shuffle(documents)
        found, _ = drops(documents, tmp_path / str(parts), parts=parts)
        assert found == expected


def test_each_document_left_out_has_one_that_stays_and_is_as_alike(tmp_path: Path) -> None:
    documents = family(2)
    text_of = dict(documents)
    found, _ = drops(documents, tmp_path / "d")
    for id, (other, alike) in found.items():
        assert other not in found
        assert float(plain_jaccard(text_of[id].lower(), text_of[other].lower())) == alike >= 0.8
    stay = [id for id in text_of if id not in found]
    left = sum(plain_jaccard(text_of[a], text_of[b]) >= Fraction(4, 5) for a in stay for b in stay if a < b)
    assert left <= 2  # what the band keys miss


def test_a_chain_of_likeness_drops_only_what_is_like_a_document_that_stays(tmp_path: Path) -> None:
    generator = random.Random(5)
    text = words(100, generator)
    chain = []
    for step in range(6):
        chain.append((str(step), " ".join(text)))
        text = text[10:] + words(10, generator)  # neighbours share 86 of 106 runs, the next but one 76 of 116
    assert plain_jaccard(chain[0][1], chain[1][1]) >= Fraction(4, 5) > plain_jaccard(chain[0][1], chain[2][1])
    found, _ = drops(chain, tmp_path / "d")
    stay = [int(id) for id, _ in chain if id not in found]
    assert 2 <= len(stay) < 6
    assert all(abs(int(id) - int(other)) == 1 for id, (other, _) in found.items())


def unit(folder: Path, documents: dict[str, str], source: int = 0) -> UnitSketches:
    """A folder with the sketches of documents."""
    signer = Signer(DuplicatesConfig(paragraphs=True, min_paragraph_words=3))
    for id, text in documents.items():
        signer.add(Document(text, id, "s", "l", "o"))
    folder.mkdir()
    signer.write(folder)
    return UnitSketches(folder, len(documents), source)


@pytest.mark.parametrize("first", [0, 1])
def test_earlier_sources_stay_and_later_ones_go(first: int, tmp_path: Path) -> None:
    texts = planted_pair(Fraction(9, 10), 200, random.Random(3))
    units = [unit(tmp_path / f"{n}", {f"id {n}": text}, int(n != first)) for n, text in enumerate(texts)]
    found, _, _ = find_duplicates(units, lambda ns: [texts[n] for n in ns], DuplicatesConfig(), tmp_path / "work")
    assert found["document"].tolist() == [1 - first]


def test_documents_that_are_beyond_the_count_are_not_there(tmp_path: Path) -> None:
    more = unit(tmp_path / "a", {"x": "one text here", "y": "other", "z": "other"})
    config = DuplicatesConfig(paragraphs=True)
    found, cuts, figures = find_duplicates([more._replace(documents=2)], lambda _: [], config, tmp_path / "work")
    assert len(found) == len(cuts) == 0
    assert figures.documents == 2


def test_paragraphs_stay_where_they_stand_first(tmp_path: Path) -> None:
    same, twice = "this stands in all of them", "this stands twice"
    texts = [f"{name} is here alone\n\n{same}\n\n{twice}\n\n{name} ends\n\n{twice}" for name in "abc"]
    units = [unit(tmp_path / "0", {"a": texts[0], "b": texts[1]}, 1), unit(tmp_path / "1", {"c": texts[2]}, 0)]
    config = DuplicatesConfig(paragraphs=True, min_paragraph_words=3)
    found, cuts, figures = find_duplicates(units, lambda ns: [texts[n] for n in ns], config, tmp_path / "work")
    assert len(found) == 0
    assert cuts.tolist() == [(0, 1), (0, 2), (0, 4), (1, 1), (1, 2), (1, 4), (2, 4)]
    assert figures.paragraphs == 7


def test_paragraphs_of_documents_that_go_do_not_count(tmp_path: Path) -> None:
    common = "a paragraph that both have"
    copy = f"{common}\n\nand another one here"
    units = [unit(tmp_path / "0", {"a": copy}), unit(tmp_path / "1", {"b": copy, "c": f"{common}\n\nanother end"}, 1)]
    config = DuplicatesConfig(paragraphs=True, min_paragraph_words=3)
    found, cuts, _ = find_duplicates(units, lambda ns: [copy for _ in ns], config, tmp_path / "work")
    assert found["document"].tolist() == [1]
    assert cuts.tolist() == [(2, 0)]


def test_short_documents_are_dropped_only_as_equals(tmp_path: Path) -> None:
    texts = [
        "yes",
        "Yes!",
        "no",
        "one two three four",
        "one two three five",
        "...",
        "…",
        "?!",
        "one  two three\nfour",
        "",
    ]
    found, _ = drops([(str(number), text) for number, text in enumerate(texts)], tmp_path / "d")
    assert {frozenset((id, other)) for id, (other, _) in found.items()} == {frozenset("01"), frozenset("38")}


def test_texts_without_spaces_neither_collapse_nor_hide(tmp_path: Path) -> None:
    generator = random.Random(4)
    han = [chr(code) for code in range(0x4E00, 0x5200)]
    text = "".join(generator.choices(han, k=300))
    edited = text[:150] + "一二三" + text[153:]
    others = ["".join(generator.choices(han, k=300)) for _ in range(20)]
    documents = [("text", text), ("edited", edited), *((f"other {n}", other) for n, other in enumerate(others))]
    found, _ = drops(documents, tmp_path / "d")
    assert {frozenset((id, other)) for id, (other, _) in found.items()} == {frozenset({"text", "edited"})}


def test_without_near_only_copies_go(tmp_path: Path) -> None:
    documents = [*planted(Fraction(9, 10), 100, 5, seed=1), ("copy", planted(Fraction(9, 10), 100, 5, seed=1)[0][1])]
    found, figures = drops(documents, tmp_path / "d", DuplicatesConfig(near=False))
    assert {frozenset((id, other)) for id, (other, _) in found.items()} == {frozenset({"copy", "0a"})}
    assert figures.candidate_pairs == 0


def test_a_crowd_of_one_page_is_compared_with_its_first_alone(tmp_path: Path) -> None:
    generator = random.Random(6)
    page = words(200, generator)
    documents = [(str(n), " ".join([*page, *words(3, generator)])) for n in range(400)]
    found, figures = drops(documents, tmp_path / "d")
    assert len(found) == 399
    assert len({other for other, _ in found.values()}) == 1
    assert figures.crowded_keys > 0
    assert figures.compared_pairs == 399
    assert figures.candidate_pairs < 400 * 399 / 2 / 4


def test_nothing_comes_of_nothing(tmp_path: Path) -> None:
    assert drops([], tmp_path / "none")[0] == {}
    assert drops([("a", "alone")], tmp_path / "one")[0] == {}


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1 << 20)
    config = DuplicatesConfig()
    peaks = [peak_of_random_sketches(documents, config, tmp_path / str(documents)) for documents in (20_000, 160_000)]
    assert peaks[1] < 1.5 * peaks[0]


def peak_of_random_sketches(documents: int, config: DuplicatesConfig, folder: Path) -> int:
    """Peak bytes that Python and numpy allocate while sketches without duplicates are searched."""
    folder.mkdir()
    scheme, generator = Scheme.of(config), np.random.default_rng(1)
    units = []
    for number in range(documents // 10_000):
        shapes = ((10_000,), (10_000, 2), (10_000, scheme.bands))
        batch = Sketches(*(generator.integers(0, 1 << 63, shape, dtype=np.uint64) for shape in shapes))
        (folder / f"{number}").mkdir()
        write_sketches(folder / f"{number}" / FILE, scheme, [batch])
        units.append(UnitSketches(folder / f"{number}", 10_000, 0))
    tracemalloc.start()
    find_duplicates(units, lambda _: [], config, folder / "work")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
