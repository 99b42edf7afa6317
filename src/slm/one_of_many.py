"""`python -m slm.one_of_many`: a run of a sweep or an ablation, as its parent describes it on standard input.

In: a line of JSON with a whole recipe and the stages to run. Out: their artifacts. Not for typing: `slm.sweep.process`
starts it.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading

from slm.compose import guarded
from slm.recipe import build_recipe
from slm.sweep.process import leave_with_parent


def work() -> None:
    """Run the stages."""
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=leave_with_parent, daemon=True).start()
    recipe = build_recipe(asked["recipe"])
    for stage in asked["stages"]:
        importlib.import_module(f"slm.{stage}").run(recipe)


if __name__ == "__main__":
    guarded(work)
