from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slm.corpus.cleaning import words
from slm.corpus.cleaning.words import SYMBOLS, TERMINAL_MARKS, count_sentences, split_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It isn't so.", "It is n't so ."),
        ('He said: "Never!"', 'He said : " Never ! "'),
        ("well-known (and liked)", "well - known ( and liked )"),
        ("Mr. Smith, U.S. citizen, e.g. here.", "Mr. Smith , U.S. citizen , e.g. here ."),
        ("5km at $3.50 on 1-2 May", "5 km at $ 3.50 on 1 - 2 May"),
        ("see https://example.net/a-b?c=d.", "see https://example.net/a-b?c=d ."),
        ("write to a.b@example.net, now", "write to a.b@example.net , now"),
        ("wait...what…", "wait ... what …"),
        ("the end.The start", "the end . The start"),
        ("dogs' bones and Ann's", "dogs ' bones and Ann 's"),
        ("東京は、大きい。", "東京は、大きい 。"),
        ("  \n\t ", ""),
    ],
)
def test_words_and_marks_part_as_english_has_it(text: str, expected: str) -> None:
    assert split_words(text) == expected.split()


@given(st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from(" .,'\"-()n'tab…/:@1")), max_size=80))
def test_no_letter_is_lost(text: str) -> None:
    assert "".join(split_words(text)) == "".join(text.split())
    assert all(word and not any(map(str.isspace, word)) for word in split_words(text))


@given(st.text(st.sampled_from("abcMrUSdontsé.,;:!?)('"), min_size=1, max_size=8))
@example("Mr.")
@example("dont,")
@example("U.S.")
def test_plain_pieces_part_without_the_rules_as_with_them(piece: str) -> None:
    assert words._plainly(piece) in ([], words._split(piece))


def test_most_pieces_of_prose_are_plain() -> None:
    prose = "The old house, which stood by the river (for years), was empty; nobody knew why. Was it? No!"
    assert [piece for piece in prose.split() if not words._plainly(piece)] == ["(for", "years),"]
    assert [words._plainly(piece) for piece in ("e.g.", "can't", "it.", "A.", "x)", "cannot")] == [
        [], [], ["it", "."], [], ["x", ")"], []
    ]  # fmt: skip


def test_long_texts_are_split_in_blocks_to_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "It isn't so (they say). " * 50
    whole = split_words(text)
    monkeypatch.setattr(words, "BLOCK_CHARACTERS", 7)
    assert split_words(text) == whole


def test_memory_of_pieces_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "REMEMBERED", 100)
    for number in range(1_000):
        split_words(f"piece{number} {'x' * 500}{number}")
        assert len(words._PIECES) <= max(100, 1)


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("One. Two! Three? Four", 4),
        ("Mr. Smith met e.g. Dr. No.", 1),
        ('"Go." He said so...', 2),
        ("", 1),
        ("It costs 3.50 today", 1),
        ("ends... without a stop", 1),
    ],
)
def test_sentences_begin_with_a_word_after_a_mark_that_ends_one(line: str, count: int) -> None:
    assert count_sentences(line) == count


def test_marks_are_the_published_lists() -> None:
    assert {".", "!", "?", "。", "؟", "।"} < TERMINAL_MARKS
    assert len(TERMINAL_MARKS) == 159
    assert {",", "-", "…", "“", "\x7f", "\n"} - SYMBOLS == {"\n"}
    assert [sign for sign in SYMBOLS if sign.isalnum()] == ["１"], "as published"
