"""Golden prompts on exported files: the same outcomes as on the checkpoint, and a wrong file is noticed."""

from __future__ import annotations

import shutil

import pytest

from slm.evaluate.golden import check, read_golden
from slm.model.load import load_model
from slm.release.evidence import collect
from slm.release.golden import check_file, missing_engine
from slm.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def run(recipe_of):
    return collect(recipe_of())


def test_each_engine_finds_what_the_evaluation_found(run):
    tokenizer = Tokenizer.load(run.artifacts["tokenizer"].path)
    prompts = read_golden(run.golden)
    expected = check(load_model(run.artifacts["train"].path), tokenizer, prompts)
    assert len({outcome.found for outcome in expected}) == len(expected) == 3
    for name in ("hf", "gguf_f32"):
        assert check_file(run.artifacts["export"].path, name, tokenizer, prompts, 1) == expected


def test_another_model_in_the_file_fails_its_prompts(run, tmp_path):
    """The weights of the head are doubled, which keeps greedy answers and moves probabilities."""
    from safetensors.torch import load_file, save_file

    folder = run.artifacts["export"].path
    shutil.copytree(folder / "hf", tmp_path / "hf")
    weights = load_file(folder / "hf" / "model.safetensors")
    norm = weights["model.norm.weight"]
    save_file({**weights, "model.norm.weight": norm * 4}, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    tokenizer = Tokenizer.load(run.artifacts["tokenizer"].path)
    (likely, *_) = read_golden(run.golden)
    (before,) = check_file(folder, "hf", tokenizer, [likely], 1)
    bound = likely.model_copy(update={"min_logprob_per_token": float(before.found) - 1e-3})
    assert check_file(folder, "hf", tokenizer, [bound], 1)[0].passed
    (after,) = check_file(tmp_path, "hf", tokenizer, [bound], 1)
    assert after.found != before.found


def test_an_engine_that_is_not_installed_is_named(monkeypatch):
    assert missing_engine("hf") == ""
    honest = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "xllamacpp" else honest(name))
    assert missing_engine("gguf_q8_0") == "xllamacpp"
