"""A tiny run with tokenizer, checkpoint and export, made once: its weights are random, its files are real."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from slm.compose import load_recipe
from slm.core.artifact import LATEST, Spec, create, open_artifact
from slm.export import run as export
from slm.model.config import ModelConfig
from slm.model.load import save_model
from slm.model.transformer import Transformer, build
from slm.recipe import Recipe
from slm.serve.engine import Engine
from slm.serve.torch_backend import TorchBackend
from slm.serve.vocabulary import OwnVocabulary
from slm.tokenizer.config import TokenizerConfig
from slm.tokenizer.hugging_face import write_hugging_face
from slm.tokenizer.sample import Quota
from slm.tokenizer.tokenizer import Tokenizer
from slm.tokenizer.training import train_model
from slm.train import Training

CONTEXT_TOKENS = 2048
OVERRIDES = (
    "recipe=smoke",
    "run=tiny",
    "tokenizer.vocab_size=512",
    "model.vocab_size=512",
    f"model.max_seq_len={CONTEXT_TOKENS}",
    "model.tie_embeddings=false",
    "export.formats=[hf,gguf_f32,gguf_q8_0,onnx]",
    "export.prompts=['def main():']",
    "export.greedy_tokens=4",
    "serve.threads=1",
    "serve.temperature=0",
    "serve.max_tokens=24",
)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder that holds the run `tiny`."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    recipe = load_recipe(*OVERRIDES, f"runs_dir={folder}")
    text = "\n".join(inspect.getsource(module) for module in (re, inspect))
    with create(recipe.folder("tokenizer"), Spec("tokenizer", recipe.tokenizer)) as draft:
        wanted = {"": Quota(len(text), len(text))}
        model = train_model(lambda: [("", text)], wanted, TokenizerConfig(vocab_size=512), "the test")
        (draft.path / "tokenizer.model").write_bytes(model)
        tokenizer = Tokenizer(model)
        write_hugging_face(tokenizer, draft.path)
        draft.counts.update(hash=tokenizer.hash)
    parents = {"tokenizer": open_artifact(recipe.folder("tokenizer"))}
    settings = Training(model=recipe.model, objective=recipe.objective, train=recipe.train)
    step = recipe.folder("train") / "step-00000002"
    with create(step, Spec("train", settings, parents)) as draft:
        save_model(build(recipe.model, seed=5), draft.path)
        draft.counts.update(step=2, tokens=4096, finished=True)
    (step.parent / LATEST).write_text(f"{step.name}\n", encoding="utf-8")
    export(recipe)
    return folder


@pytest.fixture(scope="session")
def overrides() -> tuple[str, ...]:
    """What makes the tiny run's recipe, without `runs_dir`."""
    return OVERRIDES


@pytest.fixture(scope="session")
def recipe(runs: Path) -> Recipe:
    """The recipe of the tiny run: greedy, 24 tokens."""
    return load_recipe(*OVERRIDES, f"runs_dir={runs}")


@pytest.fixture(scope="session")
def tokenizer(recipe: Recipe) -> Tokenizer:
    return Tokenizer.load(recipe.folder("tokenizer"))


@pytest.fixture(scope="session")
def places(recipe: Recipe) -> dict[str, str]:
    """Where the same model lies, by back end."""
    export_folder = recipe.folder("export")
    files = {"hf": "hf", "gguf": "model-f32.gguf", "onnx": "onnx/model.onnx"}
    return {"checkpoint": ""} | {name: str(export_folder / file) for name, file in files.items()}


@pytest.fixture(scope="session")
def engines(recipe: Recipe, places: dict[str, str]) -> Iterator[dict[str, Engine]]:
    """The same model behind each back end."""
    opened = {name: Engine.open(where, recipe) for name, where in places.items()}
    yield opened
    for engine in opened.values():
        engine.__exit__(None, None, None)


class Scripted(Transformer):
    """A model that says given ids, whatever it reads."""

    def __init__(self, config: ModelConfig, script: list[int]) -> None:
        super().__init__(config)
        self.script, self.said = script, 0

    def project(self, x_BTD: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*x_BTD.shape[:2], self.config.vocab_size)
        logits[..., self.script[self.said % len(self.script)]] = 10.0
        self.said += 1
        return logits


@pytest.fixture
def scripted(recipe: Recipe, tokenizer: Tokenizer):  # type: ignore[no-untyped-def]
    """Makes an engine that says a text, bytes or ids, over and over."""

    def make(script: str | bytes | list[int], **settings: object) -> Engine:
        ids = script if isinstance(script, list) else tokenizer.encode(script)
        config = recipe.serve.model_copy(update=settings)
        return Engine(TorchBackend(Scripted(recipe.model, ids), OwnVocabulary(tokenizer), config), "script", False)

    return make
