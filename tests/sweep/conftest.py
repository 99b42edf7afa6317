"""Rows to train on, made once by the real stages, and processes that only pretend to train."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm.recipe import Recipe
from tests.tiny_run import tiny_recipe, write_source

LR = {"key": "train.optimizer.lr", "low": 1e-4, "high": 1.0, "log": True}
WORDS = "def return import self None for in range yield class == lambda pass while".split()  # noqa: SIM905
PRETENDING = (sys.executable, str(Path(__file__).with_name("pretending.py")))
RecipeOf = Callable[..., Recipe]


@pytest.fixture(scope="session")
def recipe_of(tmp_path_factory: pytest.TempPathFactory) -> RecipeOf:
    """Recipes of 16 steps over one small corpus; keywords are settings of `sweep`."""
    base, draw = tmp_path_factory.mktemp("sweep"), random.Random(3)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(20, 120))) for _ in range(120)]
    sources = [write_source(base, "code", texts)]
    first = tiny_recipe(base, sources, "rows")
    for stage in ("corpus", "tokenizer", "shards"):
        importlib.import_module(f"slm.{stage}").run(first)
    rows = {stage: str(first.folder(stage)) for stage in ("corpus", "tokenizer", "shards")}  # type: ignore[arg-type]

    def make(run: str, sections: dict[str, Any] | None = None, **sweep: Any) -> Recipe:
        settings = {"space": [LR], "measurements": 4, "first_trials": 3, **sweep}
        return tiny_recipe(base, sources, run, sweep=settings, artifacts=rows, **(sections or {}))

    return make


@pytest.fixture
def pretending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm.sweep.process.COMMAND", PRETENDING)
    monkeypatch.setattr("slm.sweep.search.LOOK_SECONDS", 0.01)
