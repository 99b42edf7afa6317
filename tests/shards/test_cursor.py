"""The cursor survives JSON and refuses a position in other data."""

from __future__ import annotations

import json

import pytest

from slm.core.errors import UserError
from slm.shards.cursor import Cursor


def test_a_cursor_comes_back_from_json():
    cursor = Cursor("aa", {"seed": 1}, epoch=2, row=70, tokens=1120, sources={"a": 70})
    other = Cursor("aa", {"seed": 1})
    other.load_state_dict(json.loads(json.dumps(cursor.state_dict())))
    assert other == cursor


def test_another_plan_is_refused_with_both_and_the_difference():
    saved = Cursor("a" * 64, {"seed": 1, "seq_len": 16}).state_dict()
    with pytest.raises(UserError, match=r"plan a{12}, but this run's is b{12} \(seed: 1 -> 2\).*run=NAME"):
        Cursor("b" * 64, {"seed": 2, "seq_len": 16}).load_state_dict(saved)


def test_a_state_with_parts_missing_is_refused():
    state = Cursor("aa", {}).state_dict()
    del state["row"]
    with pytest.raises(UserError, match="the data cursor of the checkpoint lacks row"):
        Cursor("aa", {}).load_state_dict(state)
