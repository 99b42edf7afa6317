from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.evaluate.measurements import (
    BITS_PER_BYTE,
    evaluation_of,
    matched,
    read_measurements,
    shared_documents,
)
from tests.evaluate.planted import NUM_DOCUMENTS, document_rows, item_rows, publish, publish_corpus


def test_a_real_evaluation_is_read_back_to_its_own_results(evaluated: Artifact, results) -> None:
    found = read_measurements(evaluated)[BITS_PER_BYTE]
    total = found.numerators_N.sum() / found.denominators_N.sum()
    assert total == pytest.approx(results["validation"]["bits_per_byte"])
    assert set(found.groups["source"]) == {"code", "prose"}
    assert found.groups["language"] == ["not recorded"] * len(found.keys_N)
    assert 0 <= found.sizes["share of rare tokens"].max() <= 1
    assert np.allclose(found.scores(), [row["bits_per_byte"] for row in found.rows])
    assert evaluation_of(evaluated.path).fingerprint == evaluation_of(evaluated.path.parent).fingerprint


def test_each_metric_of_each_task_is_a_measurement(tmp_path: Path) -> None:
    items = item_rows(1.0, 0)
    items += [{**row, "metric": "nll", "value": -max(row["choice_logprobs"])} for row in items]
    made = publish(tmp_path / "a", publish_corpus(tmp_path / "corpus"), document_rows(0.0, 1), items)
    found = read_measurements(made)
    assert list(found) == [BITS_PER_BYTE, "quiz: acc", "quiz: nll"]
    assert [one.lower_is_better for one in found.values()] == [True, False, True]
    assert found["quiz: acc"].numerators_N.mean() == np.mean([row["value"] for row in item_rows(1.0, 0)])
    assert found["quiz: acc"].groups["contamination"].count("met in the corpus") == 20


def test_items_are_matched_by_name_whatever_their_order(tmp_path: Path) -> None:
    corpus, rows = publish_corpus(tmp_path / "corpus"), document_rows(0.0, 1)
    a, b = (
        read_measurements(publish(tmp_path / name, corpus, order))[BITS_PER_BYTE]
        for name, order in (("a", rows), ("b", rows[::-1]))
    )
    again = matched(a, b, ("a", "b"))
    assert again.keys_N == a.keys_N != b.keys_N
    assert np.array_equal(again.numerators_N, a.numerators_N)
    assert again.rows == a.rows


def test_items_that_differ_are_refused_with_their_counts(tmp_path: Path) -> None:
    corpus, rows = publish_corpus(tmp_path / "corpus"), document_rows(0.0, 1)
    other = [{**row, "bytes": row["bytes"] + 1} if number < 2 else row for number, row in enumerate(rows[:-5])]
    other += [{**rows[-1], "id": f"new {number}"} for number in range(3)]
    a, b = (
        read_measurements(publish(tmp_path / name, corpus, found))[BITS_PER_BYTE]
        for name, found in (("a", rows), ("b", other))
    )
    sentence = (
        r"^bits per byte was measured on different items: 5 only in runs/a, 3 only in runs/b, 2 of the same name but "
        rf"another text, {NUM_DOCUMENTS - 7} the same; evaluate both on the same"
    )
    with pytest.raises(UserError, match=sentence):
        matched(a, b, ("runs/a", "runs/b"))


def test_another_wording_of_a_question_is_another_item(tmp_path: Path) -> None:
    corpus, rows = publish_corpus(tmp_path / "corpus"), document_rows(0.0, 1)
    items = item_rows(1.0, 0)
    reordered = [{**row, "choices": row["choices"][::-1]} if row["item"] == "quiz/7" else row for row in items]
    a, b = (
        read_measurements(publish(tmp_path / name, corpus, rows, found))["quiz: acc"]
        for name, found in (("a", items), ("b", reordered))
    )
    with pytest.raises(UserError, match="0 only in a, 0 only in b, 1 of the same name but another text, 199 the same"):
        matched(a, b, ("a", "b"))


def test_a_run_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no evaluation \(no .*evaluate/manifest.json\); make one by slm evalu"):
        evaluation_of(tmp_path)


def test_questions_on_one_text_share_a_cluster_and_examples_before_all_make_none(tmp_path: Path) -> None:
    squad = [f"Context: text {n // 4}\n\nQuestion: {n}?\n\nAnswer:" for n in range(12)]
    assert shared_documents(squad).tolist() == [n // 4 for n in range(12)]
    examples = "Question: a?\nAnswer: b\n\nQuestion: c?\nAnswer: d\n\n"
    assert shared_documents([f"{examples}Question: {n}?\nAnswer:" for n in range(12)]) is None
    assert shared_documents([f"Question: {n}?\nAnswer:" for n in range(12)]) is None
    assert shared_documents([f"Context: text {n}\n\nQuestion: {n}?\n\nAnswer:" for n in range(12)]) is None
    items = [{**row, "prompt": squad[number % 12]} for number, row in enumerate(item_rows(1.0, 0))]
    made = publish(tmp_path / "a", publish_corpus(tmp_path / "corpus"), document_rows(0.0, 1), items)
    assert len(set(read_measurements(made)["quiz: acc"].clusters_N)) == 3
