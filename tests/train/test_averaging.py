"""The average of the weights: its arithmetic, and that it is what a run publishes and resumes."""

from __future__ import annotations

import pytest
import torch

import slm.train
from slm.core.artifact import file_sha256
from slm.model.config import ModelConfig
from slm.model.load import load_model
from slm.model.transformer import build
from slm.train import loop
from slm.train.averaging import average_of, follow
from slm.train.checkpoint import WEIGHTS

SHAPE = ModelConfig(vocab_size=32, width=8, layers=1, heads=1, kv_heads=1, head_dim=8, ffn_width=8, max_seq_len=8)


def test_the_average_follows_the_textbook_recursion():
    model = build(SHAPE, 0)
    average = average_of(model)
    expected = model.embedding.weight.detach().clone()
    for step in range(40):
        with torch.no_grad():
            model.embedding.weight.add_(torch.randn(32, 8, generator=torch.Generator().manual_seed(step)))
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.embedding.weight.detach()
        follow(average, model, 0.7, step)
    torch.testing.assert_close(average.embedding.weight, expected)
    assert not any(parameter.requires_grad for parameter in average.parameters())


def digests(recipe):
    folder = recipe.artifact("train").path
    return {file.name: file_sha256(file) for file in folder.iterdir() if file.name != "manifest.json"}


def test_a_run_trains_alike_and_publishes_the_average_also_after_a_kill(make_recipe, monkeypatch):
    plain, averaged, killed = (
        make_recipe("no-ema"),
        make_recipe("ema", ema_decay=0.8),
        make_recipe("ema-killed", ema_decay=0.8),
    )
    slm.train.run(plain)
    slm.train.run(averaged)
    model = "model-00001-of-00001.safetensors"
    raw, published = load_model(plain.artifact("train").path), load_model(averaged.artifact("train").path)
    assert not torch.equal(raw.norm.weight, published.norm.weight)
    from safetensors.torch import load_file

    weights = load_file(averaged.artifact("train").file(f"{WEIGHTS}.safetensors"))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in raw.state_dict().items())

    honest, count = loop.forward_backward, 0

    def deadly(*arguments):
        nonlocal count
        count += 1
        if count == 7:
            raise InterruptedError
        return honest(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "forward_backward", deadly)
        with pytest.raises(InterruptedError):
            slm.train.run(killed)
    slm.train.run(killed)
    assert digests(killed) == digests(averaged)
    assert digests(killed)[model] != digests(plain)[model]
