from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.corpus import words
from slm.corpus.words import WordHasher, joined_words, plain_words, run_hash, window_hashes

MASK = (1 << 64) - 1


def test_plain_words_are_lower_case_and_parted_by_punctuation() -> None:
    assert plain_words("Don't PANIC,\nsaid x_1 — twice (2×).") == ["don", "t", "panic", "said", "x_1", "twice", "2"]


def test_joined_words_lose_punctuation_and_keep_their_borders() -> None:
    assert joined_words("Don’t — “PANIC”,\tsaid\nx_1 (2×) ... ok") == ["dont", "panic", "said", "x1", "2", "ok"]
    assert joined_words("Don't PANIC, x_1") == ["dont", "panic", "x1"]


def test_composed_and_decomposed_accents_are_the_same_word() -> None:
    for split in (plain_words, joined_words):
        assert split(unicodedata.normalize("NFD", "Crème Brûlée")) == split("crème brûlée") == ["crème", "brûlée"]


def test_scripts_without_spaces_give_a_word_per_character() -> None:
    assert plain_words("他说 hello世界。") == ["他", "说", "hello", "世", "界"]
    assert joined_words("他说 hello世界。") == ["他", "说", "hello", "世", "界"]
    assert len(plain_words("ภาษาไทย")) == 7
    assert plain_words("한국어 문장") == ["한국어", "문장"]  # Korean puts spaces


def test_a_window_is_the_same_wherever_it_stands() -> None:
    hashes = WordHasher(plain_words).hashes("x y z the quick brown fox jumps over")
    other = WordHasher(plain_words).hashes("the quick brown fox jumps")
    assert window_hashes(hashes, 5)[3] == window_hashes(other, 5)[0] == run_hash(other)
    assert len(window_hashes(other, 6)) == 0


@given(st.lists(st.integers(0, MASK), min_size=1, max_size=40), st.integers(1, 12))
def test_window_hashes_are_the_polynomial_of_the_words(values: list[int], n: int) -> None:
    def plainly(window: list[int]) -> int:
        total = sum(value * pow(words.MULTIPLIER, place, 1 << 64) for place, value in enumerate(window)) + n & MASK
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            total = (total ^ total >> 33) * factor & MASK
        return total ^ total >> 33

    expected = [plainly(values[begin : begin + n]) for begin in range(len(values) - n + 1)]
    assert window_hashes(np.array(values, np.uint64), n).tolist() == expected


def test_windows_of_a_long_text_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.random.default_rng(1).integers(0, 1 << 63, 500, dtype=np.uint64)
    whole = window_hashes(hashes, 13)
    monkeypatch.setattr(words, "BLOCK_WORDS", 7)
    assert (window_hashes(hashes, 13) == whole).all()


@pytest.mark.parametrize("split", [plain_words, joined_words])
@given(st.text(alphabet=st.sampled_from("aÉ\u0301 \n,_她說\u3000.İΣσ'")))
def test_words_of_a_long_text_do_not_depend_on_segments(split: words.Split, text: str) -> None:
    whole = WordHasher(split).hashes(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "SEGMENT_CHARACTERS", 3)
        assert WordHasher(split).hashes(text).tolist() == whole.tolist()


def test_words_beyond_those_remembered_hash_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(f"word{number}" for number in range(50)) * 2
    expected = WordHasher(plain_words).hashes(text).tolist()
    monkeypatch.setattr(words, "REMEMBERED_WORDS", 5)
    assert WordHasher(plain_words).hashes(text).tolist() == expected


def test_orders_and_lengths_of_words_make_different_windows() -> None:
    hasher = WordHasher(plain_words)
    texts = [
        "a b c d e f g h",
        "b a c d e f g h",
        "a b c d e f h g",
        "h g f e d c b a",
        "a a a a a a a a",
        "a b c d e f g",
    ]
    assert len({run_hash(hasher.hashes(text)) for text in texts}) == len(texts)


def test_all_hashes_keeps_texts_apart() -> None:
    hashes, borders = WordHasher(plain_words).all_hashes(["one two", "", "three"])
    assert borders.tolist() == [0, 2, 2, 3]
    assert hashes[2] == WordHasher(plain_words).hashes("three")[0]
    assert WordHasher(plain_words).all_hashes([])[1].tolist() == [0]
