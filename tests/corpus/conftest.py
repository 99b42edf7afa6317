"""Corpora small enough to make in every test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm.core.artifact import Artifact
from slm.corpus import run
from slm.recipe import Recipe, build_recipe


@pytest.fixture
def recipe_of(tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe whose corpus has the given sources and settings."""

    def make(*sources: dict[str, Any], run: str = "r", redo: bool = False, **settings: Any) -> Recipe:
        return build_recipe(
            {
                "run": run,
                "redo": redo,
                "runs_dir": str(tmp_path / "runs"),
                "corpus": {"sources": list(sources), "validation_fraction": 0.2, **settings},
            }
        )

    return make


@pytest.fixture
def corpus_of(recipe_of: Callable[..., Recipe]) -> Callable[..., Artifact]:
    """The corpus itself."""
    return lambda *sources, **settings: run(recipe_of(*sources, **settings))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty text files, told apart by their number."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02d}.txt").write_text(f"text number {number}\n", encoding="utf-8")
    return folder
