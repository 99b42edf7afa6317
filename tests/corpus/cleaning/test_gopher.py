from __future__ import annotations

import pytest

from slm.corpus.cleaning.gopher import duplicates
from tests.corpus.cleaning.running import reason

PROSE = (
    "The old house by the river had stood empty for many years, and nobody in the village could say who owned it. "
    "Children told each other stories about lights in its windows, but when they went to look they found dust, broken "
    "chairs and the nests of swallows. One spring a woman came with a key, opened every door, and began to sweep."
)


def test_ordinary_prose_is_kept() -> None:
    assert reason(PROSE, "gopher_quality") == ""
    assert reason(PROSE, "gopher_repetition") == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Too short to learn from, and that is that.", "short"),
        ("to be of a it " * 20, "short_words"),
        ("internationalisation " * 60, "long_words"),
        (PROSE + " # # # # # # # # #", "hash_signs"),
        (PROSE + " ... … ... … ... … ... … ...", "ellipses"),
        ("\n".join(f"- {line}" for line in PROSE.split(",")), "bullet_lines"),
        ("\n".join(f"{line} ..." for line in PROSE.split(". ")) + "\nand so on ...", "ellipsis_lines"),
        (PROSE + " 1" * 30, "few_letters"),
        ("nobody ever learns anything here " * 12, "few_stop_words"),
    ],
)
def test_each_rule_of_quality_gives_its_reason(text: str, found: str) -> None:
    assert reason(text, "gopher_quality") == found


def test_the_limit_on_words_counts_no_punctuation() -> None:
    text = "the and " * 25
    assert reason(text, "gopher_quality", min_mean_word_length=0) == ""
    assert reason(text.replace("the", ",", 1), "gopher_quality", min_mean_word_length=0) == "short"
    assert reason(text * 3, "gopher_quality", max_words=149) == "long"
    assert reason(text * 3, "gopher_quality", max_words=150) == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\n\n".join([PROSE, "One.", "One.", "One."]), "duplicate_paragraphs"),
        (f"{PROSE}\n\nand\n\n{PROSE}\n\nor", "duplicate_paragraph_characters"),
        ("\n".join([PROSE, "One.", "One.", "One."]), "duplicate_lines"),
        (f"{PROSE}\nand\n{PROSE}\nor", "duplicate_line_characters"),
        ("he was " * 4 + "here, there, nowhere", "top_2_gram"),
        ("one of them spoke. " * 3 + PROSE[:105], "top_3_gram"),
        (f"{PROSE} and then {PROSE}", "duplicate_5_grams"),
    ],
)
def test_each_rule_of_repetition_gives_its_reason(text: str, found: str) -> None:
    assert reason(text, "gopher_repetition") == found


def test_a_limit_of_nought_is_none() -> None:
    text = "nobody " * 200
    off = dict.fromkeys(
        ["max_duplicate_lines", "max_duplicate_paragraphs", "max_duplicate_line_characters",
         "max_duplicate_paragraph_characters"], 0
    )  # fmt: skip
    assert reason(text, "gopher_repetition", **off, max_top_ngrams={}, max_duplicate_ngrams={5: 0}) == ""
    assert reason(text, "gopher_repetition", **off, max_top_ngrams={}) == "duplicate_5_grams"


def test_repetition_is_counted_from_the_second_occurrence() -> None:
    assert duplicates(["ab", "c", "ab", "ab"]) == (2, 4)
    assert duplicates([]) == (0, 0)
