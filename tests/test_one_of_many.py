"""What a sweep starts: stages of a recipe that comes as JSON."""

from __future__ import annotations

import io
import json

import pytest

from slm import one_of_many
from slm.core.errors import ProblemsError
from slm.recipe import Recipe


def test_stages_run_in_order_with_the_recipe_that_was_sent(monkeypatch):
    recipe = Recipe().model_copy(update={"seed": 77})
    sent = json.dumps({"recipe": recipe.resolved(), "stages": ["train", "evaluate"]})
    ran: list[tuple[str, int]] = []
    monkeypatch.setattr("sys.stdin", io.StringIO(sent + "\n"))
    monkeypatch.setattr(one_of_many, "leave_with_parent", lambda: None)
    for stage in ("train", "evaluate"):
        monkeypatch.setattr(f"slm.{stage}.run", lambda found, stage=stage: ran.append((stage, found.seed)))
    one_of_many.work()
    assert ran == [("train", 77), ("evaluate", 77)]


def test_a_recipe_that_is_none_is_refused(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO('{"recipe": {"trian": {}}, "stages": []}\n'))
    monkeypatch.setattr(one_of_many, "leave_with_parent", lambda: None)
    with pytest.raises(ProblemsError, match="did you mean train"):
        one_of_many.work()
