"""Quantization-aware training: it sees what compress writes, bit for bit, and keeps everything else as it was."""

from __future__ import annotations

import pytest
import torch

import slm.compress
import slm.train
from slm.compress.config import CompressConfig
from slm.compress.files import load_compressed, read_integers
from slm.core.errors import ProblemsError, UserError
from slm.model.integers import quantize
from slm.model.load import load_model, load_tensors
from slm.model.transformer import build
from slm.train import evaluation, loop
from slm.train.config import QuantizationConfig
from slm.train.memory import predict_for
from slm.train.metrics import read_metrics
from slm.train.quantization import rounding_of

INT3 = {"bits": 3, "group_size": 32}
SHORT = {"tokens": 6 * 256, "evaluate_every_steps": 2}


def rows(recipe, kind):
    return [row for row in read_metrics(recipe.folder("train") / "metrics.jsonl") if row["kind"] == kind]


@pytest.fixture
def evaluated(monkeypatch):
    """The weights of each model that an evaluation saw, newest last."""
    seen, honest = [], evaluation.Evaluator.__call__

    def watching(self, model, stop):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return honest(self, model, stop)

    monkeypatch.setattr(evaluation.Evaluator, "__call__", watching)
    return seen


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("int3", INT3),
        ("int2-rows", {"bits": 2, "group_size": 0, "symmetric": True, "outside_bits": 4}),
        ("int4-next", {"bits": 4, "group_size": 64, "on_misfit": "next", "outside_bits": 16}),
    ],
)
def test_compress_writes_bit_for_bit_what_training_saw(make_recipe, evaluated, name, settings):
    recipe = make_recipe(f"bits-{name}", quantization=settings, ema_decay=0.5, **SHORT)
    slm.train.run(recipe)
    variant = {key: value for key, value in settings.items() if key != "on_misfit"} | {"name": "same", "method": "rtn"}
    compress = CompressConfig.model_validate({
        "variants": [{**variant, "max_kl": 9, "max_bits_per_byte_increase": 9}], "positions": 16, "max_documents": 2,
        "on_misfit": settings.get("on_misfit", "refuse"),
    })  # fmt: skip
    made = slm.compress.run(recipe.model_copy(update={"compress": compress}))
    stands_for, seen = load_compressed(made.path / "same").state_dict(), evaluated[-1]
    assert stands_for.keys() == seen.keys()
    assert all(torch.equal(tensor, seen[name]) for name, tensor in stands_for.items())
    masters = load_tensors(recipe.artifact("train").path)
    assert not torch.equal(masters["blocks.0.ffn.up.weight"], seen["blocks.0.ffn.up.weight"])
    integers, _ = read_integers(made.path / "same")
    for name, found in integers.items():
        assert torch.equal(found.values_OI, quantize(masters[name], found.grid).values_OI)
    assert not [notice for notice in made.counts["notices"] if "trained to be rounded otherwise" in notice]


def test_a_variant_that_rounds_otherwise_than_training_did_is_told(make_recipe):
    recipe = make_recipe("otherwise", quantization=INT3, **{**SHORT, "evaluate_every_steps": 0})
    slm.train.run(recipe)
    compress = CompressConfig.model_validate({
        "variants": [{"name": "int4", "bits": 4, "group_size": 32, "method": "rtn", "max_kl": 9}], "positions": 16,
        "max_documents": 2,
    })  # fmt: skip
    made = slm.compress.run(recipe.model_copy(update={"compress": compress}))
    assert made.counts["notices"] == ["int4: the checkpoint was trained to be rounded otherwise (bits 4 instead of 3)"]


def test_a_step_sees_rounded_weights_and_their_gradient_goes_to_the_weights_themselves(make_recipe):
    recipe = make_recipe("step", quantization=INT3, **SHORT)
    run = loop.prepare(recipe, slm.train.specification(recipe))
    before = {name: tensor.clone() for name, tensor in run.state.model.state_dict().items()}
    batches = loop.next_batches(run, recipe, 256)
    loss, _ = loop.forward_backward(run, batches, 0.0)
    gradients = {name: parameter.grad for name, parameter in run.state.model.named_parameters()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.state.model.state_dict().items())

    twin = build(recipe.model, recipe.seed)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if parameter.ndim == 2:
                grid = run.rounding.grids[name]
                assert (grid.bits, grid.symmetric) == ((3, False) if name.startswith("blocks.") else (8, True))
                parameter.copy_(quantize(parameter, grid).dequantize())
    tokens = sum(batch.num_targets for batch in batches)
    nats = [run.objective(twin, batch).nats_sum for batch in batches]
    for part in nats:
        (part / tokens).backward()
    assert loss == pytest.approx(float(sum(nats).detach()) / tokens, rel=1e-6)
    for name, parameter in twin.named_parameters():
        assert torch.equal(parameter.grad, gradients[name]), name


def test_rounding_begins_at_its_token_and_evaluations_say_so(make_recipe, capsys):
    plain = make_recipe("plain", **SHORT)
    late = make_recipe("late", quantization={**INT3, "from_tokens": 3 * 256}, **SHORT)
    slm.train.run(plain)
    capsys.readouterr()
    end = slm.train.run(late)
    said = capsys.readouterr().out
    losses = [[row["loss"] for row in rows(recipe, "train")] for recipe in (plain, late)]
    assert losses[0][:3] == losses[1][:3]
    assert losses[0][3] != losses[1][3]
    assert [row.get("rounded_to_bits") for row in rows(late, "evaluate")] == [None, 3, 3]
    assert "matrices rounded to 3 bits in groups of 32, embedding and head to 8 from token 768 on; checkpoints" in said
    assert end.section["train"]["quantization"]["bits"] == 3


def test_a_run_goes_on_bit_for_bit(make_recipe, train_dying_in, hashes, figures):
    given = {"quantization": {**INT3, "from_tokens": 512}, "ema_decay": 0.9, "save_every_steps": 3, **SHORT}
    unbroken, broken = make_recipe("unbroken", **given), make_recipe("broken", **given)
    slm.train.run(unbroken)
    train_dying_in(broken, 5)
    assert hashes(broken) == hashes(unbroken)
    assert figures(broken) == figures(unbroken)


def test_weights_come_back_when_a_step_is_given_up(make_recipe):
    recipe = make_recipe("given-up", quantization=INT3, **SHORT)
    model = build(recipe.model, 0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rounding = rounding_of(recipe.train.quantization, model)

    def give_up():
        with rounding.applied(model, 0):
            assert not torch.equal(model.embedding.weight, before["embedding.weight"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give_up()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_bf16_weights_are_taken_from_the_rounded_ones(make_recipe, monkeypatch):
    monkeypatch.setattr("slm.train.precision.multiplies_bf16", lambda _device: True)
    recipe = make_recipe("half", quantization=INT3, precision="bf16_weights", **SHORT)
    run = loop.prepare(recipe, slm.train.specification(recipe))
    loop.forward_backward(run, loop.next_batches(run, recipe, 256), 0.0)
    with run.rounding.applied(run.state.model, 0):
        expected = [parameter.to(torch.bfloat16) for parameter in run.state.model.parameters()]
    for parameter, other in zip(run.working.model.parameters(), expected, strict=True):
        assert torch.equal(parameter, other)


def test_a_misfit_is_refused_before_anything_is_made_or_given_the_next_group(make_recipe, capsys):
    misfit = {"bits": 4, "group_size": 64}
    with pytest.raises(UserError, match=r"^train\.quantization\.group_size \(64\) does not divide the rows of "
                       r"attention\.q \(32 weights\); take 32, set train\.quantization\.on_misfit=next"):  # fmt: skip
        slm.train.run(make_recipe("misfit", quantization=misfit, **SHORT))
    found = rounding_of(QuantizationConfig(**misfit, on_misfit="next"), build(make_recipe("next").model, 0))
    sizes = {name.split(".", 2)[2]: grid.group_size for name, grid in found.grids.items() if "blocks.1" in name}
    assert sizes.pop("ffn.down.weight") == 64
    assert list(sizes.values()) == [32] * 6
    said = capsys.readouterr().out
    assert said.count("has rows of 32, so its groups are of 32 instead of 64") == 6


def test_settings_without_effect_are_refused(make_recipe):
    with pytest.raises(ProblemsError, match=r"group_size \(32\) has no effect without bits \(0\)"):
        make_recipe("idle", quantization={"group_size": 32})
    with pytest.raises(ProblemsError, match=r"quantization\.from_tokens \(9,000\) must be less than tokens \(3,072\)"):
        make_recipe("late", quantization={"bits": 4, "from_tokens": 9000})


def test_the_forecast_counts_the_weights_kept_aside(make_recipe):
    plain, rounding = make_recipe("memory"), make_recipe("memory", quantization=INT3)
    use, more = (predict_for(recipe, "cpu", "fp32", 4, 8) for recipe in (plain, rounding))
    parameters = sum(parameter.numel() for parameter in build(plain.model, 0).parameters())
    assert more.total - use.total == 4 * parameters


def test_the_published_checkpoint_loads_like_any_other(make_recipe):
    recipe = make_recipe("loads", quantization=INT3, **{**SHORT, "evaluate_every_steps": 0})
    end = slm.train.run(recipe)
    assert load_model(end.path).config == recipe.model
