"""A teacher of a tiny run, and the store that a recipe makes of it."""

from __future__ import annotations

import keyword
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import slm.distill
from slm.core.artifact import Artifact
from slm.recipe import Recipe
from tests.tiny_run import tiny_recipe, train, write_source


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """A folder, and the sources of texts in it."""
    base, draw = tmp_path_factory.mktemp("distill"), random.Random(0)
    words = [*keyword.kwlist, *dir(str)]
    texts = [" ".join(draw.choices(words, k=draw.randint(20, 90))) for _ in range(60)]
    return base, [write_source(base, "code", texts)]


@pytest.fixture(scope="session")
def teacher(texts: tuple[Path, list[dict[str, str]]]) -> Recipe:
    """A run that teaches."""
    return train(tiny_recipe(*texts, "teacher", train={"tokens": 8 * 256}))


@pytest.fixture(scope="session")
def recipe_of(texts: tuple[Path, list[dict[str, str]]], teacher: Recipe) -> Callable[..., Recipe]:
    """`recipe_of("name", kept=4, temperature=2.0)`: a student's recipe, with a store of its own on the same rows."""
    own = {stage: str(teacher.folder(stage)) for stage in ("corpus", "tokenizer", "shards")}  # type: ignore[arg-type]

    def make(run: str, temperature: float = 1.0, artifacts: dict[str, str] | None = None, **store: object) -> Recipe:
        distill = {"source": "store", "teacher": str(teacher.folder("train")), "temperature": temperature}
        settings = {"unit_tokens": 20 * 32, "batch_tokens": 128, "threads": 1, **store}
        return tiny_recipe(
            *texts, run, artifacts={**own, **(artifacts or {})}, distill=settings,
            objective={"kind": "distill", "distill": distill},
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def stored(recipe_of: Callable[..., Recipe]) -> Artifact:
    """A store of sixteen draws."""
    made = slm.distill.run(recipe_of("stored"))
    assert made is not None
    return made
