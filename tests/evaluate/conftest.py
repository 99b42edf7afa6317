"""A tiny model, tokenizer and run, made once by the real stages."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import slm.corpus
import slm.evaluate
import slm.shards
import slm.tokenizer
import slm.train
from slm.core.artifact import Artifact
from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.config import TaskConfig
from slm.model.config import ModelConfig
from slm.model.transformer import Transformer, build
from slm.recipe import Recipe, build_recipe
from slm.tokenizer import Tokenizer

WORDS = [*"def return import self None for in range yield class é 世界 {} == != lambda".split(), "\t"]  # noqa: SIM905


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_recipe(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recipe]:
    """Recipes over one small corpus of two sources."""
    base = tmp_path_factory.mktemp("evaluate")
    sources = []
    for seed, name in enumerate(("code", "prose")):
        source, path = random.Random(seed), base / f"{name}.jsonl"
        texts = [" ".join(source.choices(WORDS, k=source.randint(5, 120))) for _ in range(120)]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        sources.append({"kind": "jsonl", "name": name, "path": str(path), "licence": "CC0-1.0", "origin": "made up"})

    def recipe(run: str = "one", **changes: Any) -> Recipe:
        values: dict[str, Any] = {
            "run": run,
            "runs_dir": str(base / "runs"),
            "corpus": {"sources": sources, "validation_fraction": 0.1},
            "tokenizer": {"vocab_size": 330, "threads": 1},
            "shards": {"seq_len": 32, "threads": 1},
            "model": {
                "vocab_size": 330, "width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16,
                "ffn_width": 48, "max_seq_len": 64,
            },
            "train": {
                "tokens": 16 * 256, "batch_tokens": 256, "micro_batch_rows": 4, "evaluate_every_steps": 0,
                "save_every_steps": 100, "precision": "fp32", "threads": 1, "evaluate_rows": 4,
            },
        }  # fmt: skip
        return build_recipe({**values, **changes})

    return recipe


@pytest.fixture(scope="session")
def trained(make_recipe: Callable[..., Recipe]) -> Recipe:
    """The recipe of a run that has a finished checkpoint."""
    recipe = make_recipe()
    for stage in (slm.corpus, slm.tokenizer, slm.shards, slm.train):
        stage.run(recipe)
    return recipe


@pytest.fixture(scope="session")
def tokenizer(trained: Recipe) -> Tokenizer:
    return Tokenizer.load(trained.folder("tokenizer"))


@pytest.fixture(scope="session")
def model() -> Transformer:
    """A small model with fresh weights and a vocabulary like the tokenizer's."""
    config = ModelConfig(
        vocab_size=330, width=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn_width=48, max_seq_len=64
    )
    return build(config, seed=0).eval()


@pytest.fixture(scope="session")
def evaluated(trained: Recipe) -> Artifact:
    return slm.evaluate.run(trained)


@pytest.fixture
def results(evaluated: Artifact) -> dict[str, Any]:
    return json.loads(evaluated.file("results.json").read_text())


@pytest.fixture
def on_trained(trained: Recipe, make_recipe):
    """Recipes that evaluate the trained run into a folder of their own."""

    def recipe(run: str, **changes: Any) -> Recipe:
        names = ("tokenizer", "shards", "train")
        made = make_recipe(run, artifacts={name: str(trained.folder(name)) for name in names}, **changes)
        made.folder("corpus").parent.mkdir(parents=True, exist_ok=True)
        if not made.folder("corpus").exists():
            made.folder("corpus").symlink_to(trained.folder("corpus"))
        return made

    return recipe


@pytest.fixture
def scorer(model, tokenizer) -> Scorer:
    return Scorer(model, tokenizer, 256)


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., TaskConfig]:
    """A task over rows that are written to a file."""

    def make(layout: str, rows: list[Any], name: str = "made", suffix: str = "jsonl", **more: Any) -> TaskConfig:
        path = tmp_path / f"{name}.{suffix}"
        lines = rows if suffix == "txt" else [json.dumps(row, ensure_ascii=False) for row in rows]
        content = json.dumps(rows) if suffix == "json" and isinstance(rows, dict) else "\n".join(lines)
        path.write_text(content, encoding="utf-8")
        return TaskConfig(name=name, layout=layout, path=str(path), **more)

    return make
