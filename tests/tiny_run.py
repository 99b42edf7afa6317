"""A recipe of seconds over texts of the test's own, and its run up to a checkpoint by the real stages."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slm.recipe import Recipe, build_recipe

STAGES = ("corpus", "tokenizer", "shards", "train")


def write_source(folder: Path, name: str, texts: Sequence[str]) -> dict[str, str]:
    """Texts as a jsonl file; returns the source that reads it."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return {"kind": "jsonl", "name": name, "path": str(path), "licence": "CC0-1.0", "origin": "made up"}


def tiny_recipe(base: Path, sources: Sequence[Mapping[str, str]], run: str, **changes: Mapping[str, Any]) -> Recipe:
    """The recipe of `run` in `base`; `changes` go into its sections, key by key."""
    sections: dict[str, Any] = {
        "corpus": {"sources": list(sources), "validation_fraction": 0.1},
        "tokenizer": {"vocab_size": 330, "threads": 1},
        "shards": {"seq_len": 32, "threads": 1},
        "model": {
            "vocab_size": 330, "width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn_width": 48,
            "max_seq_len": 64,
        },
        "train": {
            "tokens": 16 * 256, "batch_tokens": 256, "micro_batch_rows": 4, "evaluate_every_steps": 0,
            "save_every_steps": 100, "precision": "fp32", "threads": 1, "evaluate_rows": 4,
        },
    }  # fmt: skip
    for name, section in changes.items():
        sections[name] = {**sections.get(name, {}), **section} if isinstance(section, Mapping) else section
    return build_recipe({"run": run, "runs_dir": str(base / "runs"), **sections})


def train(recipe: Recipe) -> Recipe:
    """Run the stages up to the checkpoint; returns the recipe."""
    for stage in STAGES:
        importlib.import_module(f"slm.{stage}").run(recipe)
    return recipe
