"""What the benchmarks of preferences say follows from what the models said, and both sides are given the same pairs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from slm.core.batch import IGNORED
from slm.evaluate.tasks.items_table import Result

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    sys.path.insert(0, str(SCRIPTS))
    yield {name: importlib.import_module(name) for name in ("bench_preferences", "preference_accuracy")}
    sys.path.remove(str(SCRIPTS))


def test_a_packed_batch_holds_each_pair_under_one_number(scripts: dict[str, ModuleType]) -> None:
    bench = scripts["bench_preferences"]
    pairs = [bench._pair(torch.Generator().manual_seed(seed)) for seed in range(bench.PAIRS)]
    batch = bench._packed(pairs)
    for row, side in enumerate(("chosen", "rejected")):
        for number, pair in enumerate(pairs):
            mine = batch.documents_BT[row] == number
            targets = batch.targets_BT[row][mine]
            assert batch.tokens_BT[row][mine].tolist() == pair["prompt"] + pair[side]
            assert targets[targets != IGNORED].tolist() == pair[side]
    assert batch.num_preferences == bench.PAIRS


def told(**log_probs: tuple[float, float]) -> dict[str, dict[str, Result]]:
    rows = {
        item: Result("preference", item, "acc", float(a > b), "", 1, choice_logprobs=(a, b))
        for item, (a, b) in log_probs.items()
    }
    return {"acc": rows}


def test_what_a_model_has_raised_is_judged_pair_by_pair(scripts: dict[str, ModuleType]) -> None:
    before = told(one=(-5.0, -4.0), two=(-5.0, -6.0), three=(-9.0, -2.0), four=(-1.0, -2.0))
    after = told(one=(-4.0, -5.0), two=(-6.0, -6.5), three=(-7.0, -3.0), four=(-1.5, -1.6))
    found = scripts["preference_accuracy"].compared(before, after)
    assert found["acc"][:2] == (0.5, 0.75)
    assert found["acc_ratio"][:2] == (0.5, 0.5)
    for _, _, low, high in found.values():
        assert low <= high


def test_folds_are_judged_together_and_runs_that_share_a_pair_are_not(scripts: dict[str, ModuleType]) -> None:
    script = scripts["preference_accuracy"]
    one = told(one=(-5.0, -4.0)), told(one=(-3.0, -4.0))
    other = told(two=(-5.0, -6.0), three=(-9.0, -2.0)), told(two=(-5.0, -6.0), three=(-9.0, -3.0))
    before, after = script.together([one, other])
    assert set(before["acc"]) == set(after["acc"]) == {"one", "two", "three"}
    found = script.compared(before, after)
    assert found["acc"][:2] == pytest.approx((1 / 3, 2 / 3))
    assert script.together([one, other, one]) is None
