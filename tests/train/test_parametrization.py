"""Factors by width and depth, and the coordinate check: does a wide model move as far as a narrow one?"""

from __future__ import annotations

import itertools

import pytest
import torch

from slm.coordinate_check import LOGITS, STREAM, coordinates
from slm.core.errors import UserError
from slm.model.config import ModelConfig
from slm.model.transformer import build
from slm.recipe import build_recipe
from slm.train.config import OptimizerConfig
from slm.train.optim import Optimizer
from slm.train.parametrization import Scale, scale_of

BASE_WIDTH, BASE_LAYERS = 64, 2


def shape(width: int, layers: int = BASE_LAYERS) -> ModelConfig:
    return ModelConfig(
        vocab_size=64, width=width, layers=layers, heads=width // 16, kv_heads=width // 16, head_dim=16,
        ffn_width=2 * width, max_seq_len=16, tie_embeddings=False,
    )  # fmt: skip


def config(parametrization: str, kind: str = "adamw") -> OptimizerConfig:
    bases = {"standard": {}, "mup": {"base_width": BASE_WIDTH}}.get(
        parametrization, {"base_width": BASE_WIDTH, "base_layers": BASE_LAYERS}
    )
    return OptimizerConfig(parametrization=parametrization, kind=kind, lr=0.01, muon_lr=0.02, **bases)


def test_everything_is_standard_at_the_base():
    names = [name for name, _ in build(shape(BASE_WIDTH), 0).named_parameters()]
    for parametrization in ("mup", "completep"):
        assert {scale_of(name, config(parametrization), shape(BASE_WIDTH)) for name in names} == {Scale()}


@pytest.mark.parametrize(
    ("name", "mup", "completep"),
    [
        ("embedding.weight", Scale(init=2, eps=1 / 4), Scale(init=2, eps=1 / 4)),
        ("blocks.0.ffn.up.weight", Scale(lr=1 / 4, weight_decay=4, eps=1 / 4), Scale(1, 1 / 4, 4, 1 / 16)),
        ("blocks.0.ffn.down.weight", Scale(1, 1 / 4, 4, 1 / 4), Scale(1 / 2, 1 / 16, 16, 1 / 4)),
        ("blocks.0.ffn_norm.weight", Scale(eps=1 / 4), Scale(eps=1 / 16)),
        ("norm.weight", Scale(eps=1 / 4), Scale(eps=1 / 4)),
        ("head.weight", Scale(init=1 / 2, lr=1 / 4), Scale(init=1 / 2, lr=1 / 4)),
    ],
)
def test_the_factors_are_those_of_the_table(name, mup, completep):
    large = shape(4 * BASE_WIDTH, 4 * BASE_LAYERS)
    assert scale_of(name, config("mup"), large) == mup
    assert scale_of(name, config("completep"), large) == completep
    assert scale_of(name, config("standard"), large) == Scale()


def test_muons_matrices_keep_their_rate_at_every_width():
    large = shape(4 * BASE_WIDTH, 4 * BASE_LAYERS)
    assert scale_of("blocks.0.attention.q.weight", config("completep", "muon"), large).lr == 1
    assert scale_of("blocks.0.attention.o.weight", config("completep", "muon"), large).lr == 1 / 4


def test_completep_equals_residual_branches_with_a_multiplier():
    """What is folded into o and down is, step by step, the branch of the paper times base_layers / layers."""
    torch.manual_seed(0)
    d, x = 4.0, torch.randn(32, 8)
    folded = torch.nn.Parameter(torch.randn(8, 8) * 0.1)
    paper = torch.nn.Parameter(folded.detach() * d)
    scale = scale_of("blocks.0.ffn.down.weight", config("completep"), shape(BASE_WIDTH, int(d) * BASE_LAYERS))
    ours = torch.optim.AdamW([folded], lr=0.01 * scale.lr, weight_decay=0.1 * scale.weight_decay, eps=1e-3)
    theirs = torch.optim.AdamW([paper], lr=0.01, weight_decay=0.1, eps=1e-3 / d)
    for _ in range(5):
        for weight, factor, optimizer in ((folded, 1.0, ours), (paper, 1 / d, theirs)):
            optimizer.zero_grad()
            ((x @ weight.T * factor - 1.0) ** 2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(folded, paper / d)


def movement(parametrization: str, width: int, layers: int, kind: str) -> dict[str, float]:
    """How far, on average, an entry of the residual stream and of the logits moves in four steps."""
    found = coordinates(shape(width, layers), config(parametrization, kind))
    return {"stream": found[STREAM].moved, "logits": found[LOGITS].moved}


def test_coordinate_check_with_mup_activations_move_alike_at_every_width_and_with_standard_they_do_not():
    flat, growing = (
        [movement(parametrization, width, BASE_LAYERS, "adamw") for width in (64, 128, 256, 512)]
        for parametrization in ("mup", "standard")
    )
    streams = [moved["stream"] for moved in flat]
    assert max(streams) < 1.15 * min(streams)
    assert all(narrow["logits"] >= wide["logits"] for narrow, wide in itertools.pairwise(flat))
    for narrow, wide in itertools.pairwise(growing):
        assert wide["stream"] > 1.3 * narrow["stream"]
        assert wide["logits"] > 1.1 * narrow["logits"]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_coordinate_check_with_completep_depth_does_not_amplify_and_with_mup_it_does(kind):
    shallow = movement("mup", BASE_WIDTH, BASE_LAYERS, kind)
    deep, flat = (movement(parametrization, BASE_WIDTH, 16, kind) for parametrization in ("mup", "completep"))
    assert deep["stream"] > 1.5 * shallow["stream"]
    assert flat["stream"] < 1.05 * shallow["stream"]
    assert flat["logits"] == pytest.approx(shallow["logits"], rel=0.15)


def test_the_optimizer_gives_each_parameter_its_rate_and_keeps_the_schedule():
    model = build(shape(2 * BASE_WIDTH), 0)
    optimizer = Optimizer(model, config("mup"), model.config)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(0.5)
    for name, lr, decay in (("embedding.weight", 0.005, 0.0), ("blocks.1.ffn.gate.weight", 0.0025, 0.2)):
        expected = before[name] * (1 - lr * decay) - lr
        torch.testing.assert_close(dict(model.named_parameters())[name].detach(), expected, msg=name)


def test_a_tied_head_and_bases_without_effect_are_refused():
    bases = {"base_width": 64}
    with pytest.raises(
        UserError, match=r"parametrization \(mup\) needs an output head of its own.*tie_embeddings=false"
    ):
        build_recipe({"train": {"optimizer": {"parametrization": "mup", **bases}}})
    with pytest.raises(ValueError, match=r"base_width \(64\) has no effect with parametrization standard"):
        OptimizerConfig(**bases)
    with pytest.raises(ValueError, match=r"base_layers \(0\) must be given with parametrization completep"):
        OptimizerConfig(parametrization="completep", **bases)
