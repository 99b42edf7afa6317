"""Continuations during training: reproducible, bounded by the context, harmless to the run's generator."""

from __future__ import annotations

import torch

from slm.model.transformer import build
from slm.tokenizer import Tokenizer
from slm.train.samples import continuation


def test_a_sample_depends_on_seed_step_and_prompt_alone(make_recipe):
    recipe = make_recipe("samples")
    model, tokenizer = build(recipe.model, 3), Tokenizer.load(recipe.folder("tokenizer"))
    before = torch.get_rng_state()
    first = continuation(model, tokenizer, "def ", 1, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert continuation(model, tokenizer, "def ", 1, 5) == first
    assert continuation(model, tokenizer, "def ", 1, 6) != first


def test_a_prompt_as_long_as_the_context_gives_nothing(make_recipe):
    recipe = make_recipe("samples")
    model, tokenizer = build(recipe.model, 3), Tokenizer.load(recipe.folder("tokenizer"))
    assert continuation(model, tokenizer, "x" * 1000, 1, 5) == ""
