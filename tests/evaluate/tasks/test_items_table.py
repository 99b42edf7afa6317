"""The table has the agreed columns, and figures are means over all items and over the clean ones."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from slm.evaluate.stage import ITEMS
from slm.evaluate.tasks.items_table import Result, summaries, write_items

COLUMNS = {
    "task": "string", "item": "string", "metric": "string", "value": "double", "chance": "double", "prompt": "string",
    "choices": "list<element: string>", "gold": "int32", "choice_logprobs": "list<element: double>",
    "choice_bytes": "list<element: int32>", "answer": "string", "prompt_tokens": "int32", "clean": "bool",
    "source": "string", "language": "string", "rare_token_rate": "double",
    "random_value": "double", "unigram_value": "double",
}  # fmt: skip


def rows() -> list[Result]:
    return [
        Result("t", "a", "acc", 1.0, "p", 3, 0.5, ["x", "y"], 1, [-1.0, -2.0], [1, 1], "x", True, "query", "de"),
        Result("t", "b", "acc", 0.0, "p", 3, 0.25, clean=False, controls={"random": 0.5}),
        Result("t", "c", "acc", 0.5, "p", 3, 0.25),
        Result("u", "a", "f1", 0.5, "p", 3),
    ]


def test_the_table_has_the_agreed_columns(tmp_path):
    write_items(rows(), tmp_path, lambda prompt: len(prompt) / 4)
    table = pq.read_table(tmp_path / ITEMS)
    assert {field.name: str(field.type) for field in table.schema} == COLUMNS
    first, second, third, _ = table.to_pylist()
    assert (first["choices"], first["choice_logprobs"], first["clean"]) == (["x", "y"], [-1.0, -2.0], True)
    assert (second["clean"], third["clean"], third["gold"], third["language"]) == (False, None, -1, None)
    assert first["rare_token_rate"] == 0.25
    assert [row["random_value"] for row in (first, second)] == [None, 0.5]
    assert second["unigram_value"] is None
    write_items([], tmp_path, lambda _: None)
    assert pq.read_table(tmp_path / ITEMS).schema.equals(table.schema)
    assert table.schema.field("clean").type == pa.bool_()


def test_figures_stand_beside_chance_and_those_of_clean_items():
    first, second = summaries(rows(), 0)
    low, high = first.pop("interval_95")
    assert 0 <= low < 0.5 < high <= 1
    assert first.pop("standard_error") == pytest.approx(stats.sem([1.0, 0.0, 0.5]))
    assert second["standard_error"] is None
    assert first.pop("clean_interval_95") == pytest.approx([0.025, 1.0])  # of one right answer
    assert second["clean_interval_95"] is None
    assert first == {
        "task": "t", "metric": "acc", "value": 0.5, "items": 3, "chance": 1 / 3, "clean_value": 1.0, "clean_items": 1,
        "contaminated_items": 1, "unchecked_items": 1,
    }  # fmt: skip
    assert (second["value"], second["chance"], second["clean_value"], second["unchecked_items"]) == (0.5, None, None, 1)


def test_questions_on_one_text_widen_the_interval():
    values = [float(number // 10 % 2) for number in range(60)]
    shared, alone = (
        summaries([Result("t", str(n), "f1", value, prompt.format(n // 10, n), 3) for n, value in enumerate(values)], 0)
        for prompt in ("Context: {}\n\nQuestion: {}\n\nAnswer:", "Question: {1}\nAnswer:")
    )
    assert shared[0]["standard_error"] > 3 * alone[0]["standard_error"]
    assert shared[0]["interval_95"][0] < alone[0]["interval_95"][0]
