"""A small corpus, tokenizer and shards, made once by the real stages."""

from __future__ import annotations

import json
import keyword
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slm.corpus
import slm.shards
import slm.tokenizer
from slm.recipe import Recipe, build_recipe

MakeRecipe = Callable[..., Recipe]


def settings(base: Path, run: str) -> dict[str, Any]:
    return {
        "run": run,
        "runs_dir": str(base / "runs"),
        "corpus": {
            "sources": [{"kind": "jsonl", "path": str(base / "text.jsonl"), "licence": "CC0-1.0", "origin": "made up"}],
            "validation_fraction": 0.1,
        },
        "tokenizer": {"vocab_size": 400, "threads": 1},
        "shards": {"seq_len": 32},
        "model": {
            "vocab_size": 400, "width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn_width": 64,
            "max_seq_len": 64,
        },
        "train": {
            "tokens": 12 * 256, "batch_tokens": 256, "micro_batch_rows": 4, "evaluate_every_steps": 5,
            "save_every_steps": 4, "log_every_steps": 1, "evaluate_rows": 8, "precision": "fp32", "threads": 1,
        },
    }  # fmt: skip


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose runs/data holds corpus, tokenizer and shards."""
    base = tmp_path_factory.mktemp("prepared")
    words = list(keyword.kwlist) + dir(str)
    source = random.Random(0)
    with (base / "text.jsonl").open("w") as stream:
        for _ in range(160):
            lines = [" ".join(source.choices(words, k=source.randint(3, 9))) for _ in range(source.randint(2, 12))]
            stream.write(json.dumps({"text": "\n".join(lines) + "\n"}) + "\n")
    recipe = build_recipe(settings(base, "data"))
    slm.corpus.run(recipe)
    slm.tokenizer.run(recipe)
    slm.shards.run(recipe)
    return base


@pytest.fixture(scope="session")
def make_recipe(prepared: Path) -> MakeRecipe:
    """`make_recipe("name", tokens=512, ...)`: a recipe that trains on the prepared shards."""

    def make(run: str, runs_dir: str = "", **train: object) -> Recipe:
        values = settings(prepared, run)
        values["runs_dir"] = runs_dir or values["runs_dir"]
        values["train"].update(train)
        values["artifacts"] = {
            stage: str(prepared / "runs/data" / stage) for stage in ("corpus", "tokenizer", "shards")
        }
        return build_recipe(values)

    return make
