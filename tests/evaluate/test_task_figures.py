from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from slm.evaluate.task_figures import LEAST_ITEMS, task_figures
from tests.evaluate.planted import ITEM_SCHEMA, item_rows


def figures(rows: list[dict[str, object]], folder: Path):
    pq.write_table(pa.Table.from_pylist(rows, schema=ITEM_SCHEMA), folder / "items.parquet")
    return task_figures(folder / "items.parquet", 0)


def test_each_metric_has_its_error_and_interval(tmp_path: Path) -> None:
    rows = item_rows(1.0, 0)
    estimates, _ = figures(rows + [{**row, "metric": "acc_bytes", "value": 1.0} for row in rows], tmp_path)
    values = [row["value"] for row in rows]
    found = estimates["quiz: acc"]
    assert found["value"] == pytest.approx(np.mean(values))
    assert found["standard_error"] == pytest.approx(stats.sem(values))
    assert found["low"] < found["value"] < found["high"]
    assert estimates["quiz: acc_bytes"]["standard_error"] == 0


def test_questions_on_one_text_widen_the_interval(tmp_path: Path) -> None:
    rows = item_rows(1.0, 0)
    hard = [{**row, "value": float(number // 40 % 2), "prompt": f"Text {number // 40}\n\nQ {number}\n\nA:"}
            for number, row in enumerate(rows)]  # fmt: skip
    shared = figures(hard, tmp_path)[0]["quiz: acc"]
    alone = figures([{**row, "prompt": f"Q {number}"} for number, row in enumerate(hard)], tmp_path)[0]["quiz: acc"]
    assert (shared["clusters"], alone["clusters"]) == (5, 200)
    assert shared["standard_error"] > 4 * alone["standard_error"]


def test_choices_are_calibrated_task_by_task(tmp_path: Path) -> None:
    _, found = figures(item_rows(1.0, 0, temperature=0.4), tmp_path)
    assert found.keys() == {"quiz"}
    assert found["quiz"]["scaled"]["temperature"] > 1.5
    assert found["quiz"]["fitted_on"] + found["quiz"]["judged_on"] == 200


def test_few_items_and_items_without_choices_have_none(tmp_path: Path) -> None:
    rows = item_rows(1.0, 0)[:LEAST_ITEMS]
    assert figures(rows[:-1], tmp_path)[1] == {}
    assert figures([{**row, "gold": -1, "choices": [], "choice_logprobs": []} for row in rows], tmp_path)[1] == {}
    assert figures(rows, tmp_path)[1].keys() == {"quiz"}
    assert figures([], tmp_path) == ({}, {})
