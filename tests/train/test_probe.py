"""The micro-batch that is measured before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import slm.train
from slm.train.loop import prepare
from slm.train.probe import probe, recorded
from tests.train.conftest import MakeRecipe


@pytest.mark.parametrize(
    ("settings", "fused"),
    [({}, True), ({"activation_checkpointing": "selective"}, False), ({"dropout": {"rate": 0.1}}, False)],
    ids=["as it is", "recomputed", "dropped"],
)
def test_the_probe_tells_what_computed_the_blocks_and_leaves_no_trace(
    settings: dict[str, Any], fused: bool, make_recipe: MakeRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe("probed", runs_dir=str(tmp_path), **settings)
    run = prepare(recipe, slm.train.specification(recipe))
    words = "each block fused" if fused else "blocks run module by module"
    assert words in capsys.readouterr().out
    weights = {name: value.clone() for name, value in run.state.model.state_dict().items()}
    cursor = run.state.loader.state_dict()
    found = probe(run, recipe)
    assert found.fused == fused
    assert 0 < found.step_seconds < 60
    assert run.state.loader.state_dict() == cursor
    assert all(parameter.grad is None for parameter in run.state.model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in run.state.model.state_dict().items())


def test_a_step_of_autograd_is_found_wherever_it_was_taken() -> None:
    x = torch.ones(3, requires_grad=True)
    result = (x.exp() + x).sum()
    assert recorded(result, "ExpBackward0")
    assert not recorded(result, "SinBackward0")
