"""A tiny model, tokenizer and run, made once by the real stages."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import slm.evaluate
from slm.core.artifact import Artifact
from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.config import TaskConfig
from slm.model.config import ModelConfig
from slm.model.transformer import Transformer, build
from slm.recipe import Recipe
from slm.tokenizer import Tokenizer
from tests.tiny_run import tiny_recipe, train, write_source

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
        draw = random.Random(seed)
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(5, 120))) for _ in range(120)]
        sources.append(write_source(base, name, texts))

    def recipe(run: str = "one", **changes: Any) -> Recipe:
        return tiny_recipe(base, sources, run, **changes)

    return recipe


@pytest.fixture(scope="session")
def trained(make_recipe: Callable[..., Recipe]) -> Recipe:
    """The recipe of a run that has a finished checkpoint."""
    return train(make_recipe())


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
