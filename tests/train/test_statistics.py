"""Sizes by layer: what they are of, at which steps, and that measuring changes nothing."""

from __future__ import annotations

import pytest
import torch

import slm.train
from slm.core.artifact import file_sha256
from slm.train import loop, statistics
from slm.train.statistics import layers_measured
from tests.train.readings import rows_of

QUANTITIES = ("output_rms", "output_max", "attention_rms", "attention_max", "ffn_rms", "ffn_max")


def weights(recipe):
    return file_sha256(slm.train.run(recipe).file("model-00001-of-00001.safetensors"))


def rms(*tensors):
    return float(torch.cat([tensor.detach().float().flatten() for tensor in tensors]).square().mean().sqrt())


@pytest.fixture
def run(make_recipe):
    recipe = make_recipe("looked-at")
    return loop.prepare(recipe, slm.train.specification(recipe))


def test_a_measured_run_learns_the_same_and_measures_at_the_chosen_steps_alone(make_recipe, monkeypatch):
    expected, calls, inner = weights(make_recipe("not-measured")), [], statistics.activations
    monkeypatch.setattr(statistics, "activations", lambda run, batch: calls.append(run) or inner(run, batch))
    measured = make_recipe("measured", statistics_every_steps=5)
    assert weights(measured) == expected
    rows = rows_of(measured, "layers")
    assert [(row["step"], row["tokens"]) for row in rows] == [(5, 5 * 256), (10, 10 * 256)]
    assert len(calls) == 2
    assert not any(module._forward_hooks for module in calls[0].state.model.modules())
    names = {f"{quantity}.{layer}" for quantity in QUANTITIES for layer in ("00", "01")}
    names |= {
        f"{quantity}.{part}"
        for quantity in ("weight_rms", "grad_rms", "update_share")
        for part in ("embedding", "00", "01")
    }
    assert set(rows[0]) - {"kind", "step", "tokens"} == names
    assert all(row[name] > 0 for row in rows for name in names)


def test_a_run_that_goes_on_measures_each_step_once(make_recipe, train_until_step):
    settings = {"statistics_every_steps": 4, "tokens": 8 * 256}
    unbroken, broken = (make_recipe(name, **settings) for name in ("measured-unbroken", "measured-broken"))
    slm.train.run(unbroken)
    train_until_step(broken, 5)
    slm.train.run(broken)
    assert rows_of(broken, "layers") == rows_of(unbroken, "layers")
    assert len(rows_of(broken, "layers")) == 2


@pytest.mark.parametrize("clip_norm", [0.0, 1e-3])
def test_figures_are_those_of_the_tensors(run, clip_norm):
    model, batches = run.state.model, run.state.loader.step()
    norm = loop.forward_backward(run, batches, 0.0)[1]
    block = [parameter for parameter in model.blocks[1].parameters() if parameter.ndim == 2]
    before, grads = [parameter.detach().clone() for parameter in block], [parameter.grad.clone() for parameter in block]
    if clip_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    with layers_measured(run, batches, norm, clip_norm) as figures:
        run.state.optimizer.step(1.0)
    moved = [parameter - old for parameter, old in zip(block, before, strict=True)]
    assert figures["weight_rms.01"] == pytest.approx(rms(*before), rel=1e-5)
    assert figures["grad_rms.01"] == pytest.approx(rms(*grads), rel=1e-2 if clip_norm else 1e-5)
    assert figures["update_share.01"] == pytest.approx(rms(*moved) / rms(*before), rel=1e-3)


def test_activations_leave_padding_out(run):
    batch = run.state.loader.step()[0]
    batch.documents_BT[:, -9:] = -1
    figures = statistics.activations(run, batch)
    seen = {}
    block = run.state.model.blocks[0]
    handles = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out.detach()}))
        for name, module in (("output", block), ("attention", block.attention), ("ffn", block.ffn))
    ]
    with torch.no_grad():
        run.objective(run.state.model, batch)
    for handle in handles:
        handle.remove()
    for name, out in seen.items():
        assert rms(out) != pytest.approx(rms(out[batch.documents_BT >= 0]), rel=1e-4)
        assert figures[f"{name}_rms.00"] == pytest.approx(rms(out[batch.documents_BT >= 0]), rel=1e-5)
        assert figures[f"{name}_max.00"] == pytest.approx(float(out[batch.documents_BT >= 0].abs().max()))
