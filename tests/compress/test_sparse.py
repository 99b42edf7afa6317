"""Two zeros in each four weights: which ones, by definition, and what it costs the outputs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from slm.compress import run
from slm.compress.files import load_compressed
from slm.compress.sparse import prune
from slm.core.errors import ProblemsError, UserError
from slm.model.integers import quantize
from slm.model.load import load_model, load_tensors
from slm.recipe import Recipe

S24 = {"name": "s24", "method": "sparse", "bits": 32, "outside_bits": 32}


def most_in_four(matrix: Tensor) -> int:
    return int((matrix.unflatten(1, (-1, 4)) != 0).sum(-1).max())


def test_magnitude_and_wanda_keep_the_two_that_they_say(layer: Any) -> None:
    weight, gram = layer.weight_OI[:8, :16].clone(), layer.statistics.gram_II[:16, :16]
    norms = layer.x_NI[:, :16].square().sum(0).sqrt()
    weight[0, :4] = 0.5  # the first two of equals
    for by, score in (("magnitude", weight.abs()), ("wanda", weight.abs() * norms)):
        expected = torch.zeros_like(weight)
        for row, start in itertools.product(range(8), range(0, 16, 4)):
            for place in sorted(range(start, start + 4), key=lambda n: (-float(score[row, n]), n))[:2]:
                expected[row, place] = weight[row, place]
        assert torch.equal(prune(weight, by, gram), expected)


def test_sparsegpt_solves_for_what_is_left_as_well_as_can_be(layer: Any) -> None:
    """With one four, what stands for a row is known: the best of all masks, the rest of the row refitted by hand."""
    weight, gram = layer.weight_OI[:5, :4], layer.statistics.gram_II[:4, :4]
    found = prune(weight, "sparsegpt", gram)
    assert most_in_four(found) == 2
    damped = gram.double() + 0.01 * gram.diagonal().mean() * torch.eye(4)
    for row, sparse in zip(weight.double(), found.double(), strict=True):

        def error(candidate: Tensor, row: Tensor = row) -> float:
            difference = candidate - row
            return float(difference @ damped @ difference)

        refitted = []
        for kept in itertools.combinations(range(4), 2):
            some = list(kept)
            best = torch.zeros(4, dtype=torch.float64)
            best[some] = torch.linalg.solve(damped[some][:, some], damped[some] @ row)
            refitted.append(error(best))
        masked = [
            error(row * torch.tensor([place in kept for place in range(4)]))
            for kept in itertools.combinations(range(4), 2)
        ]
        assert min(refitted) * 0.99 < error(sparse) < sorted(masked)[1]


def test_outputs_err_less_the_more_is_known(layer: Any) -> None:
    errors = [
        layer.error(prune(layer.weight_OI, by, layer.statistics.gram_II)) for by in ("magnitude", "wanda", "sparsegpt")
    ]
    assert errors[2] < 0.9 * errors[1] < 0.8 * errors[0]
    assert all(most_in_four(prune(layer.weight_OI, by, layer.statistics.gram_II)) == 2 for by in ("wanda", "sparsegpt"))


def test_rows_that_do_not_fall_into_fours_are_refused() -> None:
    with pytest.raises(UserError, match=r"a row of 30 weights does not fall into fours"):
        prune(torch.ones(3, 30), "magnitude")


def test_the_stage_publishes_sparse_weights_plain_or_on_a_grid(
    compressing: Callable[..., Recipe], trained: Recipe
) -> None:
    int4 = {**S24, "name": "int4", "bits": 4, "group_size": 32, "symmetric": True, "outside_bits": 8}
    made = run(compressing(S24, {**S24, "name": "magnitude", "prune_by": "magnitude"}, int4))
    facts = json.loads((made.path / "cost.json").read_text())["variants"]
    assert 0 < facts["s24"]["increase"] < facts["magnitude"]["increase"] * 1.5
    dense = load_model(trained.artifact("train").path).state_dict()
    plain, again = load_tensors(made.path / "magnitude"), load_compressed(made.path / "magnitude").state_dict()
    assert plain.keys() == dense.keys()
    for name, tensor in dense.items():
        assert torch.equal(again[name], plain[name])
        assert torch.equal(
            plain[name], prune(tensor, "magnitude") if name.startswith("blocks.") and tensor.ndim == 2 else tensor
        )
    rounded = load_compressed(made.path / "int4").state_dict()
    for name, tensor in load_tensors(made.path / "s24").items():
        if name.startswith("blocks.0.attention.q"):
            assert most_in_four(tensor) == most_in_four(rounded[name]) == 2
            grid_of_q = quantize(tensor, quantize_grid(made.path / "int4", name))
            assert torch.equal(rounded[name], grid_of_q.dequantize())


def quantize_grid(folder: Any, name: str) -> Any:
    from slm.compress.files import read_integers

    return read_integers(folder)[0][name].grid


def test_settings_without_effect_are_refused(compressing: Callable[..., Recipe]) -> None:
    for settings, message in (
        ({"method": "rtn", "prune_by": "wanda"}, r"prune_by \(wanda\) has no effect on rtn"),
        ({"method": "rtn", "bits": 32}, r"bits \(32\) rounds nothing, so rtn has nothing to do"),
    ):
        with pytest.raises((ProblemsError, ValueError), match=message):
            compressing({"name": "wrong", **settings})
