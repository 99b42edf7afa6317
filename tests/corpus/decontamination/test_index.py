from __future__ import annotations

import random

import numpy as np
import pytest

from slm.corpus.decontamination.benchmarks import Item
from slm.corpus.decontamination.index import Hit, Index
from slm.corpus.words import joined_words

VOCABULARY = [f"word{number}" for number in range(300)]


def sentence(words: int, generator: random.Random) -> str:
    return " ".join(generator.choices(VOCABULARY, k=words))


def index_of(*texts: str, ngram_words: int = 13, min_words: int = 8) -> Index:
    return Index([("test", [Item(str(number), (text,)) for number, text in enumerate(texts)])], ngram_words, min_words)


def plain_hits(items: list[str], text: str, ngram_words: int, min_words: int) -> set[int]:
    """Which items a text holds, by comparing words and nothing else."""
    words = joined_words(text)
    found = set()
    for number, item in enumerate(items):
        runs = joined_words(item)
        length = min(len(runs), ngram_words)
        wanted = {tuple(runs[begin : begin + length]) for begin in range(len(runs) - length + 1)}
        if length >= min_words and wanted & {tuple(words[b : b + length]) for b in range(len(words) - length + 1)}:
            found.add(number)
    return found


@pytest.mark.parametrize(("ngram_words", "min_words"), [(13, 8), (5, 5), (4, 1), (6, 2)])
def test_hits_are_those_that_comparing_words_finds(ngram_words: int, min_words: int) -> None:
    generator = random.Random(ngram_words)
    small = VOCABULARY[:4]  # so few words that runs agree by chance too
    items = [" ".join(generator.choices(small, k=generator.randrange(20))) for _ in range(60)]
    index = index_of(*items, ngram_words=ngram_words, min_words=min_words)
    texts = []
    for _ in range(80):
        words = generator.choices(small, k=generator.randrange(40))
        held = generator.choice(items).split()
        begin = generator.choice([0, generator.randrange(len(held) + 1)])
        texts.append(" ".join([*words, *held[begin : begin + generator.choice([6, 20])]]))
    found: list[set[int]] = [set() for _ in texts]
    for hit in index.hits(texts):
        found[hit.document].add(hit.item)
    expected = [plain_hits(items, text, ngram_words, min_words) for text in texts]
    assert found == expected
    assert 5 < sum(map(len, expected)) < len(texts) * len(items)


def test_a_hit_says_which_words() -> None:
    generator = random.Random(1)
    item = sentence(40, generator)
    before, after = sentence(25, generator), sentence(9, generator)
    assert index_of(item).hits(["nothing here", f"{before} {item} {after}"]) == [Hit(1, 0, 25, 40)]
    half = " ".join(item.split()[:15])
    assert index_of(item).hits([f"{half} {before} {item}"]) == [Hit(0, 0, 0, 15), Hit(0, 0, 40, 40)]


def test_a_run_over_the_border_of_two_documents_is_none() -> None:
    words = sentence(13, random.Random(2)).split()
    index = index_of(" ".join(words), " ".join(words[:9]))
    assert index.hits([" ".join(words[:8]), " ".join(words[8:])]) == []
    assert len(index.hits([" ".join(words)])) == 2


def test_twelve_words_of_an_item_are_no_hit_and_thirteen_are() -> None:
    words = sentence(30, random.Random(3)).split()
    index = index_of(" ".join(words))
    assert index.hits([" ".join(words[4:16]) + " other"]) == []
    assert index.hits([" ".join(words[4:17]) + " other"]) == [Hit(0, 0, 0, 13)]


def test_short_items_hit_only_as_a_whole_and_very_short_ones_not_at_all() -> None:
    words = sentence(12, random.Random(4)).split()
    index = index_of(" ".join(words), "yes", " ".join(words[:7]))
    assert index.hits([" ".join(words[:11])]) == []
    assert index.hits(["so " + " ".join(words)]) == [Hit(0, 0, 1, 12)]
    assert index.hits(["yes yes yes"]) == []
    (benchmark,) = index.benchmarks
    assert benchmark.unchecked == {1, 2}


def test_one_run_in_several_items_hits_all_of_them() -> None:
    passage = sentence(20, random.Random(5))
    index = index_of(passage, "other " + passage)
    assert [hit.item for hit in index.hits([passage])] == [0, 1]


def test_evaluations_keep_their_names_and_ids() -> None:
    generator = random.Random(6)
    texts = [sentence(15, generator) for _ in range(5)]
    index = Index(
        [("one", [Item("a", (texts[0],)), Item("b", (texts[1],))]), ("two", [Item("a", (texts[2], texts[3]))])], 13, 8
    )
    found = [index.name_of(hit.item) for hit in index.hits(texts)]
    assert found == [("one", "a"), ("one", "b"), ("two", "a"), ("two", "a")]


def test_equal_evaluations_have_one_identity_and_others_another() -> None:
    texts = [sentence(20, random.Random(n)) for n in range(3)]
    assert index_of(*texts).digest() == index_of(*texts).digest()
    others = [
        index_of(*texts[:2]),
        index_of(*texts, ngram_words=12),
        index_of(*texts[1:], texts[0]),
        index_of(*texts, "a b c d e f g h"),
    ]
    assert len({index.digest() for index in (*others, index_of(*texts))}) == 5


def test_an_index_takes_about_fourteen_bytes_an_entry() -> None:
    generator = random.Random(7)
    index = index_of(*(sentence(112, generator) for _ in range(2000)))
    assert len(index) == 200_000
    assert 12 * len(index) < index.memory_bytes < 15 * len(index)


def test_an_empty_index_finds_nothing() -> None:
    assert Index([], 13, 8).hits(["some text " * 20]) == []
    assert len(index_of("yes")) == 0


def test_random_text_raises_no_false_alarm() -> None:
    generator = random.Random(8)
    index = index_of(*(sentence(60, generator) for _ in range(1000)))
    assert index.hits([sentence(500, generator) for _ in range(500)]) == []
    assert np.log10(len(index)) > 4
