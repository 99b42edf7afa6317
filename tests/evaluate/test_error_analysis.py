"""Where one model fails: parts against sums done by hand, and which items count as its worst."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm.core.artifact import Artifact
from slm.evaluate.error_analysis import WORST, analyse, worst
from slm.evaluate.measurements import read_measurements
from tests.evaluate.planted import document_rows, item_rows, publish, publish_corpus

DOCUMENTS, ITEMS = document_rows(0.4, 1), item_rows(0.5, 1)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("errors")
    return publish(folder / "run", publish_corpus(folder / "corpus"), DOCUMENTS, ITEMS)


def test_a_part_is_the_ratio_of_its_sums_within_its_interval(evaluation: Artifact) -> None:
    documents = analyse(evaluation)[0]
    found = {(part.kind, part.name): each for part, each in documents.parts}
    prose = [row for row in DOCUMENTS if row["source"] == "prose"]
    expected = sum(row["bits_per_byte"] * row["bytes"] for row in prose) / sum(row["bytes"] for row in prose)
    assert found["source", "prose"].value == pytest.approx(expected)
    assert found["source", "prose"].low < expected < found["source", "prose"].high
    assert found["source", "prose"].value > documents.whole.value > found["source", "code"].value
    assert sum(each.items for (kind, _), each in found.items() if kind == "bytes") == len(DOCUMENTS)


def test_each_task_is_analysed_by_its_first_metric(tmp_path: Path) -> None:
    second = [{**row, "metric": "acc_norm"} for row in ITEMS]
    made = publish(tmp_path / "run", publish_corpus(tmp_path / "corpus"), DOCUMENTS, [*ITEMS, *second])
    assert [one.name for one in analyse(made)] == ["bits per byte", "quiz: acc"]


def test_the_worst_documents_are_those_of_most_bits_with_their_texts(evaluation: Artifact) -> None:
    worst_rows = sorted(DOCUMENTS, key=lambda row: -row["bits_per_byte"])[:WORST]
    items = analyse(evaluation)[0].worst
    assert [item.key for item in items] == [row["id"] for row in worst_rows]
    assert all(item.prompt.startswith(f"Text of {item.key}") for item in items)


def test_the_worst_answers_are_wrong_and_the_surest_of_them_come_first(evaluation: Artifact) -> None:
    def margin(row: dict) -> float:
        gold = row["choice_logprobs"][row["gold"]]
        return gold - max(value for number, value in enumerate(row["choice_logprobs"]) if number != row["gold"])

    wrong = sorted((row for row in ITEMS if row["value"] == 0), key=margin)
    assert [item.key for item in analyse(evaluation)[1].worst] == [row["item"] for row in wrong[:WORST]]


@pytest.mark.parametrize(("value", "count"), [(1.0, 0), (0.0, WORST)])
def test_nothing_is_worst_where_all_is_right_and_something_where_all_is_wrong(
    tmp_path: Path, value: float, count: int
) -> None:
    rows = [{**row, "value": value} for row in ITEMS]
    made = publish(tmp_path / "run", publish_corpus(tmp_path / "corpus"), DOCUMENTS, rows)
    assert len(worst(read_measurements(made)["quiz: acc"])) == count


def test_texts_of_a_corpus_that_is_gone_are_left_empty(tmp_path: Path) -> None:
    corpus = publish_corpus(tmp_path / "corpus")
    made = publish(tmp_path / "run", corpus, DOCUMENTS)
    corpus.path.rename(tmp_path / "elsewhere")
    (found,) = analyse(made)
    assert [item.prompt for item in found.worst] == [""] * WORST
