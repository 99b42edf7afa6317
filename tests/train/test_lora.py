"""Training adapters on the one loop: only they move, checkpoints hold the merged model, runs go on bit for bit."""

from __future__ import annotations

import pytest
import torch

import slm.train
from slm.model.config import LoraConfig
from slm.model.four_bits import FourBits
from slm.model.load import load_model, load_tensors
from slm.train.config import TrainConfig

SHORT = {"tokens": 4 * 256, "evaluate_every_steps": 0}
LORA = {"lora": {"rank": 4, "alpha": 8}, "optimizer": {"kind": "adamw", "lr": 0.02, "weight_decay": 0.0}}


@pytest.fixture(scope="module")
def base(make_recipe):
    recipe = make_recipe("base", **SHORT)
    slm.train.run(recipe)
    return recipe


def begun(make_recipe, name, base, **changes):
    return make_recipe(name, initial=str(base.folder("train").parent), **{**SHORT, **LORA, **changes})


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_the_checkpoint_holds_the_base_with_its_adapter_merged(make_recipe, base, dora):
    recipe = begun(make_recipe, f"merged-{dora}", base, lora={"rank": 4, "alpha": 8, "dora": dora})
    end = slm.train.run(recipe)
    before, after = load_tensors(base.artifact("train").path), load_tensors(end.path)
    adapter = load_tensors(end.path, stem="adapter")
    assert before.keys() == after.keys() == load_model(end.path).state_dict().keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith("blocks.") and before[name].ndim == 2}
    for name in moved:
        stem = name.removesuffix(".weight")
        wanted = before[name] + 2 * adapter[f"{stem}.b"] @ adapter[f"{stem}.a"]
        if dora:
            wanted *= (adapter[f"{stem}.magnitude"] / wanted.norm(dim=1))[:, None]
        torch.testing.assert_close(after[name], wanted, atol=1e-6, rtol=0)


def test_the_loss_on_the_adapters_run_falls(make_recipe, base, figures):
    recipe = begun(make_recipe, "falls", base, tokens=24 * 256, log_every_steps=1)
    slm.train.run(recipe)
    losses = [row["loss"] for row in figures(recipe) if row["kind"] == "train"]
    assert sum(losses[-4:]) < sum(losses[:4]) - 0.05


def test_it_goes_on_bit_for_bit_after_dying(make_recipe, base, train_dying_in, hashes, figures):
    recipe, broken = (begun(make_recipe, name, base, save_every_steps=2) for name in ("whole", "broken"))
    slm.train.run(recipe)
    train_dying_in(broken, 4)
    assert hashes(broken) == hashes(recipe)
    assert figures(broken) == figures(recipe)


def test_beside_a_base_in_4_bits_it_goes_on_bit_for_bit_too(make_recipe, base, train_dying_in, hashes, figures):
    settings = {"save_every_steps": 2, "lora": {"rank": 4, "alpha": 8, "base": "nf4", "targets": ["ffn.down"]}}
    recipe, broken = (begun(make_recipe, f"{name}-nf4", base, **settings) for name in ("whole", "broken"))
    slm.train.run(recipe)
    train_dying_in(broken, 4)
    assert hashes(broken) == hashes(recipe)
    assert figures(broken) == figures(recipe)
    before, after = load_tensors(base.artifact("train").path), load_tensors(recipe.artifact("train").path)
    name = "blocks.0.ffn.down"
    adapter = load_tensors(recipe.artifact("train").path, stem="adapter")
    wanted = FourBits(before[f"{name}.weight"], "nf4", name).dense() + 2 * adapter[f"{name}.b"] @ adapter[f"{name}.a"]
    torch.testing.assert_close(after[f"{name}.weight"], wanted, atol=1e-6, rtol=0)


def test_a_run_may_begin_with_what_adapters_made_of_another(make_recipe, base):
    first = begun(make_recipe, "first", base)
    slm.train.run(first)
    second = begun(make_recipe, "second", first, tokens=2 * 256)
    end = slm.train.run(second)
    assert end.manifest["parents"]["initial"]["fingerprint"] == first.artifact("train").fingerprint


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"initial": ""}, "lora trains beside the matrices of initial, which is empty"),
        ({"optimizer": {"kind": "muon"}}, "cannot be combined with optimizer.kind=muon"),
        ({"ema_decay": 0.9}, "cannot be combined with ema_decay"),
        ({"precision": "bf16_weights"}, "cannot be combined with precision=bf16_weights"),
        ({"lora": {"targets": ["attention.q", "attention.q"]}}, "names a matrix twice"),
        (
            {"lora": {"base": "nf4"}, "parallel": "full_shard"},
            r"lora cannot be combined with parallel=full_shard \(lora.base is nf4\)",
        ),
    ],
    ids=["nothing beside it", "muon", "average", "bf16 weights", "twice", "4 bits in shards"],
)
def test_what_cannot_be_is_refused(change, finding):
    with pytest.raises(ValueError, match=finding):
        TrainConfig.model_validate({"initial": "x", "lora": {}, **change})


def test_the_scale_follows_the_rank():
    assert LoraConfig(rank=4, alpha=8).scale == 2
    assert LoraConfig(rank=4, alpha=8, rslora=True).scale == 4
