"""Locks, processes that end with their parent, and why they ended."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from slm.sweep.process import held, run_folder, started, was_stopped, why_it_ended

CHILD = """
import sys, threading, time
from slm.sweep.process import leave_with_parent
sys.stdin.readline()
threading.Thread(target=leave_with_parent, daemon=True).start()
print("begun", flush=True)
time.sleep(600)
"""
PARENT = """
import json, sys
from slm.recipe import build_recipe
from slm.sweep import process
process.COMMAND = tuple(json.loads(sys.argv[2]))
recipe = build_recipe(json.loads(sys.argv[1]))
with process.held(process.run_folder(recipe)) as lock, process.started(recipe, ("train",), lock) as child:
    print(child.pid, flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_held_by_one(tmp_path):
    with held(tmp_path / "run") as first, held(tmp_path / "run") as second:
        assert first is not None
        assert second is None
    with held(tmp_path / "run") as third:
        assert third is not None


def test_a_process_goes_with_its_parent_and_holds_the_lock_until_then(recipe_of):
    recipe = recipe_of("orphan")
    child = json.dumps([sys.executable, "-c", CHILD])
    line = [sys.executable, "-c", PARENT, json.dumps(recipe.resolved()), child]
    parent = subprocess.Popen(line, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdin is not None
    int(parent.stdout.readline())
    while (run_folder(recipe) / "output.txt").read_text() != "begun\n":
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    with held(run_folder(recipe), wait=True) as lock:  # the child holds it until it has left, or for ten minutes
        assert lock is not None
    parent.stdout.close()
    parent.stdin.close()


@pytest.mark.usefixtures("pretending")
def test_why_a_process_ended_is_in_what_it_said(recipe_of):
    for name, lr, expected in (("bad", 0.6, "train.optimizer.lr is too high; lower it"), ("dead", 0.0001, "killed by")):
        recipe = recipe_of(f"why-{name}", {"train": {"optimizer": {"lr": lr}, "evaluate_every_steps": 4}})
        with held(run_folder(recipe)) as lock, started(recipe, ("train",), lock) as process:
            status = process.wait()
        assert why_it_ended(recipe, status).startswith(expected)
        assert not was_stopped(status)
    assert was_stopped(85)
