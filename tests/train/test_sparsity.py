"""A sparse fine-tune: its zeros stay zeros bit for bit through whatever changes weights, and the rest is trained."""

from __future__ import annotations

import pytest
import torch

import slm.compress
import slm.train
from slm.compress.config import CompressConfig
from slm.compress.files import load_compressed
from slm.core.errors import ProblemsError, UserError
from slm.core.lineage import lineage
from slm.model.load import load_tensors
from slm.train import loop

SHORT = {"tokens": 6 * 256, "evaluate_every_steps": 0}


def zeros(tensors):
    return {name: tensor == 0 for name, tensor in tensors.items() if name.startswith("blocks.") and tensor.ndim == 2}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_zeros_stay_zeros_through_update_decay_and_average(make_recipe, pruned, kind):
    optimizer = {"kind": kind, "weight_decay": 0.3}
    recipe = make_recipe(
        f"kept-{kind}", initial=str(pruned), sparsity="2:4", ema_decay=0.9, optimizer=optimizer, **SHORT
    )
    end = slm.train.run(recipe)
    start = load_tensors(pruned)
    for stem in ("model", "weights"):
        found = load_tensors(end.path, stem=stem)
        for name, where in zeros(start).items():
            assert int(where.sum()) == where.numel() // 2
            assert torch.equal(found[name][where], torch.zeros(int(where.sum())))
            assert not torch.signbit(found[name][where]).any()
            assert (found[name][~where] != start[name][~where]).float().mean() > 0.9, "the rest is trained"
    assert end.manifest["parents"]["initial"]["kind"] == "compress"
    assert end.manifest["ingredients"]["inputs"] == {"initial_variant": "s24"}
    assert [found.kind for depth, found in lineage(end.path) if depth <= 2].count("train") >= 2


def test_without_the_mask_they_do_not(make_recipe, pruned):
    end = slm.train.run(make_recipe("not-kept", initial=str(pruned), **SHORT))
    found, where = load_tensors(end.path), zeros(load_tensors(pruned))
    assert all((found[name][there] != 0).float().mean() > 0.9 for name, there in where.items())


def test_what_is_masked_counts_in_no_gradient(make_recipe, pruned):
    recipe = make_recipe("gradients", initial=str(pruned), sparsity="2:4", **SHORT)
    run = loop.prepare(recipe, slm.train.specification(recipe))
    _, norm = loop.forward_backward(run, loop.next_batches(run, recipe, 256), 0.0)
    gradients = {name: parameter.grad for name, parameter in run.state.model.named_parameters()}
    where = zeros(load_tensors(pruned))
    assert all(bool((gradients[name][there] == 0).all()) for name, there in where.items())
    assert norm == pytest.approx(sum(float(g.square().sum()) for g in gradients.values()) ** 0.5, rel=1e-5)


def test_it_goes_on_bit_for_bit_rounded_as_well(make_recipe, pruned, train_until_killed, hashes, figures):
    given = {"initial": str(pruned), "sparsity": "2:4", "save_every_steps": 3, "optimizer": {"kind": "muon"}, **SHORT}
    given["quantization"] = {"bits": 4, "group_size": 32, "symmetric": True}
    unbroken, broken = make_recipe("unbroken", **given), make_recipe("broken", **given)
    end = slm.train.run(unbroken)
    train_until_killed(broken, "step", 5)
    slm.train.run(broken)
    assert hashes(broken) == hashes(unbroken)
    assert figures(broken) == figures(unbroken)
    variant = {"name": "int4", "method": "rtn", "symmetric": True, "group_size": 32, "max_kl": 9}
    compress = CompressConfig.model_validate({"variants": [variant], "positions": 16, "max_documents": 2})
    made = slm.compress.run(unbroken.model_copy(update={"compress": compress}))
    rounded = load_compressed(made.path / "int4").state_dict()
    assert all(bool((rounded[name][there] == 0).all()) for name, there in zeros(load_tensors(end.path)).items())
    assert made.counts["notices"] == []


def test_what_cannot_be_is_refused(make_recipe, pruned):
    with pytest.raises(
        ProblemsError, match=r"train: sparsity \(2:4\) keeps the zeros of initial, which is empty; name a"
    ):
        make_recipe("no-beginning", sparsity="2:4")
    with pytest.raises(ProblemsError, match=r"noise_scale_every_steps \(2\) would measure gradients that sparsity"):
        make_recipe("noisy", sparsity="2:4", initial=str(pruned), noise_scale_every_steps=2)
    dense = make_recipe("dense", **SHORT).folder("train")
    with pytest.raises(
        UserError, match=r"^train\.sparsity is 2:4, but blocks\.0\.attention\.q\.weight in .+ has fours"
    ):
        slm.train.run(make_recipe("too-full", initial=str(dense), sparsity="2:4", **SHORT))
    with pytest.raises(UserError, match=r"^train\.initial \(.+/int4\) holds integers, which cannot be trained; begin"):
        slm.train.run(make_recipe("integers", initial=str(pruned.parent / "int4"), **SHORT))
