"""Calibration text is fixed by settings and seed, and comes from where the recipe says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from slm.compress import run
from slm.compress.calibration import from_shards
from slm.compress.config import Calibration
from slm.core.errors import UserError
from slm.recipe import Recipe

AWQ = {"name": "awq", "group_size": 64, "bits": 3}


def test_calibration_rows_are_the_same_for_the_same_seed_and_others_for_another(trained: Recipe) -> None:
    shards = trained.artifact("shards")
    one, same, other = (from_shards(shards, Calibration(tokens=256), seed) for seed in (1, 1, 2))
    assert one.hash == same.hash != other.hash
    assert one.tokens <= 256


def test_calibration_comes_from_a_text_if_one_is_named(compressing: Callable[..., Recipe], tmp_path: Path) -> None:
    text = tmp_path / "calibration.txt"
    text.write_text("def range ( self ) : return None\n" * 200)
    made = run(compressing(AWQ, calibration={"text": str(text), "tokens": 640, "row_tokens": 64}))
    assert made.counts["calibration"]["rows"] == 10
    assert made.counts["calibration"]["tokens"] == 640
    text.write_text("lambda yield " * 2)
    recipe = compressing(AWQ, calibration={"text": str(text), "row_tokens": 64}).model_copy(update={"redo": True})
    with pytest.raises(UserError, match=r"holds \d+ tokens, less than one row of 64"):
        run(recipe)
