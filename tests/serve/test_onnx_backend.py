"""Answers from ONNX Runtime: the torch back end's own, token for token."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from slm.core.errors import UserError
from slm.recipe import Recipe
from slm.serve import onnx_backend
from slm.serve.engine import Engine


def test_sampled_answers_are_those_of_the_torch_back_end(engines: dict[str, Engine], recipe: Recipe) -> None:
    settings = recipe.serve.model_copy(
        update={"temperature": 0.9, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.1, "max_tokens": 40}
    )
    for seed in (1, 2):
        chosen = settings.model_copy(update={"seed": seed})
        answers = {name: list(engines[name].generate("import re", chosen)) for name in ("hf", "onnx")}
        assert answers["onnx"] == answers["hf"]
        assert len(answers["onnx"]) > 5


def test_a_prompt_is_read_in_chunks(
    engines: dict[str, Engine], recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "def parse(source, flags=0):\n    return source"
    whole = "".join(engines["onnx"].generate(prompt, recipe.serve))
    monkeypatch.setattr(onnx_backend, "PREFILL_TOKENS", 3)
    assert "".join(engines["onnx"].generate(prompt, recipe.serve)) == whole


def test_the_folder_opens_as_its_file_does(recipe: Recipe, places: dict[str, str]) -> None:
    with Engine.open(str(Path(places["onnx"]).parent), recipe) as engine:
        assert engine.name == places["onnx"]
        assert engine.chat_tuned is False
        assert engine.has_template


def test_what_must_lie_beside_the_file_is_named(recipe: Recipe, places: dict[str, str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(Path(places["onnx"]).parent, tmp_path / "onnx"))
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer that can be opened"):
        Engine.open(str(folder), recipe)
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json names no max_position_embeddings; restore"):
        Engine.open(str(folder), recipe)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        Engine.open(str(folder), recipe)


def test_an_int8_cache_is_refused(recipe: Recipe, places: dict[str, str]) -> None:
    settings = recipe.serve.model_copy(update={"kv_cache": "int8"})
    with pytest.raises(UserError, match=r"^serve\.kv_cache is int8, but the keys and values of .+ are floats; leave"):
        Engine.open(places["onnx"], recipe.model_copy(update={"serve": settings}))
