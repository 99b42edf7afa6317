from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.corpus.duplicates.paragraphs import (
    paragraph_digests,
    read_paragraphs,
    repeats_in_range,
    without_paragraphs,
    write_paragraphs,
)

TEXT = "one\nline\n\ntwo\n \n\nthree\n\n\n"


def test_paragraphs_are_cut_with_the_empty_lines_above_them() -> None:
    assert without_paragraphs(TEXT, {1}) == "one\nline\n \n\nthree\n\n\n"
    assert without_paragraphs(TEXT, {0}) == "two\n \n\nthree\n\n\n"
    assert without_paragraphs(TEXT, {2}) == "one\nline\n\ntwo\n\n\n"
    assert without_paragraphs(TEXT, {0, 1, 2, 3}) == ""
    assert without_paragraphs("alone", {0}) == ""


@given(st.text(alphabet="a \n"))
def test_cutting_nothing_changes_nothing(text: str) -> None:
    assert without_paragraphs(text, ()) == text


def test_only_paragraphs_with_enough_words_are_taken() -> None:
    found = paragraph_digests(7, "one two three\n\ntoo short\n\nONE  two\nthree", 3)
    assert found[:, 2:].tolist() == [[7, 0], [7, 2]]
    assert found[0, :2].tolist() == found[1, :2].tolist()
    assert paragraph_digests(7, "", 1).shape == (0, 4)


def test_a_file_gives_back_the_paragraphs_of_the_documents_that_count(tmp_path: Path) -> None:
    batches = [paragraph_digests(row, f"text {row}\n\nmore {row}", 2) for row in range(5)]
    write_paragraphs(tmp_path / "p.npy", batches)
    assert read_paragraphs(tmp_path / "p.npy", 3).tolist() == np.concatenate(batches[:3]).tolist()
    write_paragraphs(tmp_path / "empty.npy", [])
    assert len(read_paragraphs(tmp_path / "empty.npy", 3)) == 0


@pytest.mark.parametrize("order", [[0, 1, 2], [5, 3, 1]])
def test_all_but_the_first_in_order_are_repeats(order: list[int]) -> None:
    rows = np.array([(1, 1, 0, 0), (1, 1, 1, 3), (1, 1, 1, 2), (1, 2, 2, 0), (1, 1, 2, 1)], np.uint64)
    found = {tuple(cut) for cut in repeats_in_range(rows, np.array(order, np.uint64)).tolist()}
    everything = {(0, 0), (1, 3), (1, 2), (2, 1)}
    assert found == everything - ({(0, 0)} if order[0] == 0 else {(2, 1)})
