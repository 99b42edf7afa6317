from __future__ import annotations

import pytest

from slm.corpus.cleaning.english import exceptions


def test_the_parts_of_a_word_make_the_word() -> None:
    assert all("".join(parts) == word and all(parts) for word, parts in exceptions().items())


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("don't", ("do", "n't")), ("Shouldn't've", ("Should", "n't", "'ve")), ("they'd've", ("they", "'d", "'ve")),
        ("I'm", ("I", "'m")), ("What's", ("What", "'s")), ("cannot", ("can", "not")), ("10am", ("10", "am")),
        ("Mr.", ("Mr.",)), ("e.g.", ("e.g.",)),
    ],
)  # fmt: skip
def test_contractions_part_and_abbreviations_stay(word: str, parts: tuple[str, ...]) -> None:
    assert exceptions()[word] == parts


def test_words_that_look_like_contractions_are_words() -> None:
    assert not {"its", "well", "were", "shell", "Ill"} & exceptions().keys()
