"""Profiling: a trace and a table of the asked steps, and the same weights."""

from __future__ import annotations

import json

import pytest

import slm.train
from slm.core.artifact import file_sha256
from slm.train.profile import profiled


@pytest.mark.filterwarnings("ignore")  # the profiler's own, about its clock
def test_a_profiled_run_writes_trace_and_table_and_learns_the_same(make_recipe):
    hashes = []
    for name, steps in (("plain", 0), ("profiled", 2)):
        recipe = make_recipe(name, tokens=5 * 256, profile=steps)
        hashes.append(file_sha256(slm.train.run(recipe).file("model-00001-of-00001.safetensors")))
    assert hashes[0] == hashes[1]
    folder = recipe.folder("train") / "profile"
    assert sorted(path.name for path in folder.iterdir()) == ["operators.txt", "step-00000003.trace.json"]
    events = json.loads((folder / "step-00000003.trace.json").read_text())["traceEvents"]
    marks = {event["name"] for event in events if str(event.get("name", "")).startswith("ProfilerStep")}
    assert marks == {"ProfilerStep#2", "ProfilerStep#3"}
    assert "aten::mm" in (folder / "operators.txt").read_text()


def test_without_steps_to_profile_nothing_is_written(tmp_path):
    with profiled(tmp_path, 0, 0) as step:
        step()
    assert list(tmp_path.iterdir()) == []
