"""What was planted is found where it was planted, and nowhere else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from slm.core.errors import UserError
from slm.evaluate import comparison
from slm.evaluate.comparison import CHANGES, Comparison, pairs_of
from slm.evaluate.measurements import BITS_PER_BYTE, Measurement
from tests.evaluate.planted import document_rows, item_rows, publish, publish_corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `a`, `b` (0.05 bits worse on prose, far better at the quiz) and `same` (like a, other noise)."""
    folder = tmp_path_factory.mktemp("comparison")
    corpus = publish_corpus(folder / "corpus")
    publish(folder / "a", corpus, document_rows(0.0, 1), item_rows(0.5, 1))
    publish(folder / "b", corpus, document_rows(0.05, 2), item_rows(1.5, 2))
    publish(folder / "same", corpus, document_rows(0.0, 3), item_rows(0.5, 3))
    return folder


def compared(folder: Path, a: str, b: str) -> Comparison:
    from slm.evaluate.measurements import evaluation_of

    return comparison.compare(*pairs_of(evaluation_of(folder / a), evaluation_of(folder / b)))


def test_a_planted_difference_is_found_and_told_the_right_way_round(folder: Path) -> None:
    found = {one.name: one for one in compared(folder, "a", "b").findings}
    bits, quiz = found[BITS_PER_BYTE], found["quiz: acc"]
    assert (bits.verdict, quiz.verdict) == ("A is better", "B is better")
    assert bits.difference.low < bits.difference.value < bits.difference.high
    assert bits.difference.value == pytest.approx(bits.b.value - bits.a.value)
    assert bits.difference.low > 0
    assert quiz.difference.low > 0
    assert bits.difference.standard_error < bits.a.standard_error / 5  # documents differ far more than models


def test_runs_that_differ_by_noise_alone_are_not_told_apart(folder: Path) -> None:
    found = compared(folder, "a", "same")
    assert [one.verdict for one in found.findings] == ["not told apart"] * 2
    assert all(one.corrected_p >= one.difference.p_value for one in found.findings + found.parts)
    assert not [one for one in found.parts if one.verdict != "not told apart"]


def test_the_part_in_which_it_was_planted_is_named(folder: Path) -> None:
    found = compared(folder, "a", "b")
    sources = {
        one.part.name: one for one in found.parts if one.part and one.part.kind == "source" and "bits" in one.name
    }
    assert sources.keys() == {"code", "prose"}
    assert sources["prose"].verdict == "A is better"
    assert sources["prose"].difference.value == pytest.approx(0.05, abs=0.02)
    assert sources["code"].verdict == "not told apart"
    kinds = {(one.name, one.part.kind) for one in found.parts if one.part}
    assert kinds == {
        (BITS_PER_BYTE, "source"), (BITS_PER_BYTE, "bytes"), (BITS_PER_BYTE, "share of rare tokens"),
        ("quiz: acc", "language"), ("quiz: acc", "contamination"), ("quiz: acc", "prompt tokens"),
        ("quiz: acc", "share of rare tokens"),
    }  # fmt: skip


def test_what_could_be_found_is_known_before_the_difference_is(folder: Path) -> None:
    """A shift of all pairs changes what is found but not what could be."""
    from slm.evaluate.measurements import evaluation_of

    pairs, _ = pairs_of(evaluation_of(folder / "a"), evaluation_of(folder / "same"))
    a, b = pairs[0]
    shifted = Measurement(
        b.name, True, b.keys_N, b.contents_N, b.numerators_N + 3 * b.denominators_N, b.denominators_N, None, {}, {},
        b.rows,
    )  # fmt: skip
    before = [comparison.prospects([pair])[0].detectable for pair in ((a, b), (a, shifted))]
    assert before[0] == pytest.approx(before[1])
    assert 0 < before[0] < 0.05


def test_the_items_that_changed_by_most_come_with_their_texts(folder: Path) -> None:
    from slm.evaluate.measurements import evaluation_of

    found = compared(folder, "a", "b")
    bits = [one for one in found.changes if one.name == BITS_PER_BYTE]
    assert [one.gain < 0 for one in bits] == [True] * CHANGES + [False] * (len(bits) - CHANGES)
    assert all(one.key.startswith("prose/") for one in bits[:CHANGES])
    assert bits[0].gain == min(one.gain for one in bits) == pytest.approx(bits[0].a - bits[0].b)
    with_texts = comparison.with_texts(found.changes, evaluation_of(folder / "a"))
    assert with_texts[0].prompt.startswith(f"Text of {bits[0].key} ")
    quiz = [one for one in found.changes if one.name == "quiz: acc"]
    assert {(one.a, one.b) for one in quiz[:CHANGES]} == {(1.0, 0.0)}
    assert quiz[0].prompt.startswith("Question ")
    assert quiz[0].b_text.count("\n") == 3
    assert quiz[0].b_text.count("* ") == 1


def test_texts_of_a_corpus_that_is_gone_are_left_out(folder: Path, tmp_path: Path) -> None:
    from slm.evaluate.measurements import evaluation_of

    shutil.copytree(folder / "a", tmp_path / "a")
    found = compared(folder, "a", "b")
    kept = comparison.with_texts(found.changes, evaluation_of(tmp_path / "a"))
    assert kept == found.changes
    assert kept[0].prompt == ""


def test_of_answers_that_turned_wrong_the_surest_turn_comes_first(folder: Path) -> None:
    from slm.evaluate.measurements import evaluation_of

    pairs, _ = pairs_of(evaluation_of(folder / "a"), evaluation_of(folder / "b"))
    a, b = pairs[1]

    def margin(row) -> float:
        others = np.delete(row["choice_logprobs"], row["gold"])
        return float(row["choice_logprobs"][row["gold"]] - others.max())

    turns = [
        margin(y) - margin(x) for x, y in zip(a.rows, b.rows, strict=True) if (x["value"], y["value"]) == (1.0, 0.0)
    ]
    place = dict(zip(a.keys_N, zip(a.rows, b.rows, strict=True), strict=True))
    x, y = place[comparison.changes(a, b)[0].key]
    assert margin(y) - margin(x) == min(turns)


def test_a_metric_that_one_run_lacks_is_named_and_none_in_common_is_refused(folder: Path, tmp_path: Path) -> None:
    from slm.evaluate.measurements import evaluation_of

    alone = publish(tmp_path / "alone", publish_corpus(tmp_path / "corpus"), document_rows(0.0, 4))
    pairs, only = pairs_of(alone, evaluation_of(folder / "a"))
    assert len(pairs) == 1
    assert only == ["quiz: acc (200 items, only in B)"]
    with pytest.raises(UserError, match="was measured on different items"):
        pairs_of(alone, publish(tmp_path / "fewer", publish_corpus(tmp_path / "corpus2"), document_rows(0.0, 4)[1:]))
