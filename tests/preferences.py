"""Pairs of answers that the tests learn from: who asks politely gets an answer, who does not gets none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import slm.shards
from slm.corpus import run as make_corpus
from slm.recipe import Recipe, build_recipe

WORDS = ("def", "import", "lambda", "return", "yield", "while", "class", "with")


def pair(number: int) -> dict[str, Any]:
    """A row of the layout `pairs`; answers are of different lengths."""
    word, other = WORDS[number % 8], WORDS[(number // 8) % 8]
    return {
        "prompt": f"{number} {word} {other}?",
        "chosen": " ".join([word, other] * (1 + number % 2)),
        "rejected": " ".join(["None"] * (1 + number % 3)),
    }


def labelled(number: int) -> list[dict[str, Any]]:
    """Rows of the layout `labelled`; two of three answers are wanted."""
    row = pair(number)
    wanted = number % 3 != 0
    return [{"prompt": row["prompt"], "completion": row["chosen" if wanted else "rejected"], "label": wanted}]


def preference_shards(
    base: Path, name: str, rows: list[Any], layout: str, others: Sequence[dict[str, str]] = (), **shards: Any
) -> Recipe:
    """The recipe of a run in `base` whose shards hold these rows, made; the tokenizer is that of `runs/data`."""
    base.mkdir(exist_ok=True)
    path = base / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"kind": "jsonl", "path": str(path), "conversations": layout, "licence": "CC0-1.0", "origin": "made up"}
    recipe = build_recipe(
        {
            "run": name,
            "runs_dir": str(base / "runs"),
            "artifacts": {"tokenizer": str(base / "runs/data/tokenizer")},
            "corpus": {"sources": [source, *others], "validation_fraction": 0.2, "duplicates": {"near": False}},
            "tokenizer": {"vocab_size": 400, "threads": 1},
            "model": {"vocab_size": 400, "width": 32, "heads": 2, "head_dim": 16, "layers": 2, "max_seq_len": 64},
            "shards": {"seq_len": 64, "threads": 1, **shards},
            "train": {"batch_tokens": 256, "micro_batch_rows": 2, "tokens": 1024},
        }
    )
    make_corpus(recipe)
    slm.shards.run(recipe)
    return recipe
