from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.corpus.cleaning import views
from slm.corpus.cleaning.views import TextViews, WordRuns, exceeds

WORD_LISTS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "aba", "é", "東京"]), max_size=60)


def most_frequent_characters(words: list[str], length: int) -> int:
    runs = Counter(" ".join(words[start : start + length]) for start in range(len(words) - length + 1))
    return max((len(run) * count for run, count in runs.most_common(1)), default=0)


def repeated_characters(words: list[str], length: int) -> int:
    seen: set[str] = set()
    characters = place = 0
    while place < len(words) - length + 1:
        run = "".join(words[place : place + length])
        if run in seen:
            characters += len(run)
            place += length
        else:
            seen.add(run)
            place += 1
    return characters


@given(WORD_LISTS, st.integers(1, 6))
def test_runs_are_counted_as_their_definitions_say(words: list[str], length: int) -> None:
    runs = WordRuns(words, Counter(words))
    assert runs.top_characters(length) == most_frequent_characters(words, length)
    assert runs.repeated_characters(length) == repeated_characters(words, length)


@given(WORD_LISTS, st.integers(0, 200))
def test_what_does_not_matter_is_told_as_nought_and_what_does_exactly(words: list[str], above: int) -> None:
    runs = WordRuns(words, Counter(words))
    for length in (2, 3, 4, 1):
        exact = most_frequent_characters(words, length)
        assert runs.top_characters(length, above) in ((exact,) if exact > above else (exact, 0))
    for length in (5, 6, 2):
        exact = repeated_characters(words, length)
        assert runs.repeated_characters(length, above) in ((exact,) if exact > above else (exact, 0))


def test_texts_that_repeat_little_are_not_looked_at_closely() -> None:
    words = [f"word{number % 90}" for number in range(100)]
    runs = WordRuns(words, Counter(words))
    assert most_frequent_characters(words, 2) == runs.top_characters(2) == 22
    assert runs.top_characters(2, above=50) == 0
    assert repeated_characters(words, 5) == runs.repeated_characters(5) == 50
    assert runs.repeated_characters(5, above=200) == 0


def test_runs_of_very_many_words_are_told_apart() -> None:
    different = [f"w{number}" for number in range(1 << 17)]
    words = different + [word for first in different[:: 1 << 13] for word in (first, "w1", "w2", "w3")]
    assert (
        most_frequent_characters(words, 4)
        == WordRuns(words, Counter(words)).top_characters(4)
        == len("w0 w1 w2 w3") * 2
    )


def test_words_of_any_length_are_compared_by_their_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["a" * 30, "b", "é", "a" * 10, "a" * 20, "b", "é", "c", "a" * 31]
    expected = [repeated_characters(words, length) for length in (2, 3, 4)]
    assert any(expected)
    assert [WordRuns(words, Counter(words)).repeated_characters(length) for length in (2, 3, 4)] == expected
    monkeypatch.setattr(views, "POWERS", 8)
    assert [WordRuns(words, Counter(words)).repeated_characters(length) for length in (2, 3, 4)] == expected


def test_the_same_letters_in_other_words_are_a_repetition() -> None:
    for words, characters in ((["can", "not", "x", "cannot", "x"], 0), (["ab", "c", "a", "bc"], 3)):
        assert WordRuns(words, Counter(words)).repeated_characters(2) == characters


def test_words_are_split_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(views, "split_words", lambda text: calls.append(text) or text.split())
    text = TextViews("one two two")
    assert (text.words, text.word_counts, text.runs.different) == (["one", "two", "two"], {"one": 1, "two": 2}, 2)
    assert calls == ["one two two"]
    assert text.seconds > 0


def test_a_limit_of_nought_is_none() -> None:
    assert exceeds(0.3, 0.2)
    assert not exceeds(0.2, 0.2)
    assert not exceeds(5, 0)
