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
