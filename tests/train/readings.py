"""What a run left behind, in a form that two runs can be compared by."""

from __future__ import annotations

from typing import Any

from slm.core.artifact import file_sha256
from slm.recipe import Recipe
from slm.train.metrics import read_metrics

CLOCK = {
    "seconds", "tokens_per_second", "model_flops_per_second", "matmul_share", "mfu", "energy_joules", "hours",
    "energy_kwh",
}  # fmt: skip
"""Figures of the machine instead of the run."""


def rows_of(recipe: Recipe, kind: str) -> list[dict[str, Any]]:
    """The rows of one kind, whole."""
    return [row for row in read_metrics(recipe.folder("train") / "metrics.jsonl") if row["kind"] == kind]


def figures(recipe: Recipe) -> list[dict[str, Any]]:
    """The rows of a run's metrics without those of the clock."""
    rows = read_metrics(recipe.folder("train") / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]


def hashes(recipe: Recipe) -> dict[str, str]:
    """Of the files of a run's last checkpoint, weights, optimizer and all, and of its autopsies."""
    files = [file for file in recipe.artifact("train").path.iterdir() if file.name != "manifest.json"]
    return {file.name: file_sha256(file) for file in [*files, *recipe.folder("train").glob("autopsy-*.json")]}
