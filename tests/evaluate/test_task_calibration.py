from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from slm.evaluate.task_calibration import LEAST_ITEMS, task_calibrations
from tests.evaluate.planted import ITEM_SCHEMA, item_rows


def calibrations(rows: list[dict[str, object]], folder: Path):
    pq.write_table(pa.Table.from_pylist(rows, schema=ITEM_SCHEMA), folder / "items.parquet")
    return task_calibrations(folder / "items.parquet", 0)


def test_choices_are_calibrated_task_by_task(tmp_path: Path) -> None:
    rows = item_rows(1.0, 0, temperature=0.4)
    found = calibrations([*rows, *({**row, "metric": "acc_bytes"} for row in rows)], tmp_path)
    assert found.keys() == {"quiz"}
    assert found["quiz"]["scaled"]["temperature"] > 1.5
    assert found["quiz"]["fitted_on"] + found["quiz"]["judged_on"] == 200


def test_few_items_and_items_without_choices_have_none(tmp_path: Path) -> None:
    rows = item_rows(1.0, 0)[:LEAST_ITEMS]
    assert calibrations(rows[:-1], tmp_path) == {}
    assert calibrations([{**row, "gold": -1, "choices": [], "choice_logprobs": []} for row in rows], tmp_path) == {}
    assert calibrations(rows, tmp_path).keys() == {"quiz"}
    assert calibrations([], tmp_path) == {}
