"""Matrices and inputs with a few large channels, as activations have them, and a small trained run."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slm.compress.config import CompressConfig
from slm.compress.statistics import InputStatistics
from slm.recipe import Recipe
from tests.tiny_run import tiny_recipe, train, write_source


class Layer:
    """A matrix [O, I], inputs [N, I] and their statistics."""

    def __init__(self, outputs: int, inputs: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.weight_OI = torch.randn(outputs, inputs, generator=draw) / inputs**0.5
        mixing_II = torch.randn(inputs, inputs, generator=draw) / inputs**0.5 + torch.eye(inputs)
        sizes_I = torch.exp(torch.randn(inputs, generator=draw) * 1.2)
        self.x_NI = (torch.randn(2_000, inputs, generator=draw) @ mixing_II) * sizes_I
        self.statistics = InputStatistics(inputs)
        for part_NI in self.x_NI.split(300):
            self.statistics.add(part_NI)

    def error(self, weight_OI: Tensor) -> float:
        """Squared error of the outputs, computed from the inputs themselves."""
        return float((self.x_NI.double() @ (weight_OI - self.weight_OI).double().T).square().sum())


@pytest.fixture(params=[0, 1])
def layer(request: pytest.FixtureRequest) -> Layer:
    return Layer(48, 128, request.param)


@pytest.fixture(scope="session")
def make_recipe(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recipe]:
    """Recipes over one small corpus; runs made by the same fixture share their folder."""
    base = tmp_path_factory.mktemp("compress")
    draw = random.Random(5)
    words = "def return import self None for in range yield class == != lambda ( ) : , .".split()  # noqa: SIM905
    source = write_source(base, "code", [" ".join(draw.choices(words, k=draw.randint(20, 90))) for _ in range(160)])
    shape = {"vocab_size": 320, "width": 64, "layers": 3, "heads": 4, "kv_heads": 2, "ffn_width": 96}

    def recipe(run: str = "one") -> Recipe:
        return tiny_recipe(
            base, [source], run, corpus={"validation_fraction": 0.15}, tokenizer={"vocab_size": 320}, model=shape,
            train={"tokens": 24 * 512, "batch_tokens": 512, "micro_batch_rows": 8},
        )  # fmt: skip

    return recipe


@pytest.fixture(scope="session")
def trained(make_recipe: Callable[..., Recipe]) -> Recipe:
    """The recipe of a run that has a finished checkpoint."""
    return train(make_recipe())


@pytest.fixture
def compressing(trained: Recipe, tmp_path: Path) -> Callable[..., Recipe]:
    """Recipes that compress the trained run into a folder of the test's own."""
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    for stage in ("corpus", "tokenizer", "shards", "train"):
        (run / stage).symlink_to(trained.folder(stage))  # type: ignore[arg-type]

    def recipe(*variants: dict[str, Any], **changes: Any) -> Recipe:
        section = {"calibration": {"tokens": 1024}, "on_misfit": "next", "positions": 64, **changes}
        section["variants"] = [{"max_kl": 9, "max_bits_per_byte_increase": 9, **variant} for variant in variants]
        compress = CompressConfig.model_validate(section)
        return trained.model_copy(update={"run": "mine", "runs_dir": str(tmp_path / "runs"), "compress": compress})

    return recipe
