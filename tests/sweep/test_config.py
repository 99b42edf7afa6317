"""Ranges that mean nothing are refused where they stand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from slm.core.errors import ProblemsError
from slm.recipe import build_recipe
from slm.sweep.config import Parameter, SweepConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 1}, r"low \(1.0\) must be less than high \(None\)"),
        ({"low": 2, "high": 1}, r"low \(2.0\) must be less than high \(1.0\)"),
        ({"low": 0, "high": 1, "log": True}, r"log needs low \(0\) above 0"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, r"no step \(2.0\)"),
        ({"low": 1, "high": 9.5, "kind": "int"}, "an int needs whole numbers"),
        ({"low": 1, "high": 9, "choices": [1, 2]}, "choices have no effect on kind float"),
        ({"kind": "choice", "choices": [1]}, "a choice needs two different values"),
        ({"kind": "choice", "choices": [1, 2], "low": 3}, "a choice has no low"),
    ],
)
def test_a_range_that_means_nothing_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Parameter(key="train.clip_norm", **settings)


def test_a_key_or_a_change_stands_once():
    one = {"key": "train.clip_norm", "low": 0, "high": 1}
    with pytest.raises(ValidationError, match=r"train.clip_norm stands there twice"):
        SweepConfig.model_validate({"space": [one, one]})
    with pytest.raises(ValidationError, match="stands there twice; name each change once"):
        SweepConfig.model_validate({"changes": [{"train.clip_norm": 1}, {"train.clip_norm": 1}]})


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("train.optimizer.lrr", "train.optimizer.lrr: no such key; did you mean lr?"),
        ("train.optimizer", "sweep.space (train.optimizer) is a section; name the keys in it"),
        (
            "shards.seq_len",
            "sweep.space (shards.seq_len) must name settings of model, objective or train, since runs share their rows",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_with_all_other_problems(key, problem):
    with pytest.raises(ProblemsError) as caught:
        build_recipe({"sweep": {"space": [{"key": key, "low": 1, "high": 2}]}, "shards": {"seq_len": 1024}})
    assert any(problem in line for line in caught.value.problems)
    assert len(caught.value.problems) == 2
    with pytest.raises(ProblemsError, match=r"sweep\.changes"):
        build_recipe({"sweep": {"changes": [{key: 1}]}})
