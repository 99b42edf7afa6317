"""Matrices in 4 bits: the published levels, the nearest of them, the same gradients as a float matrix, the memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from slm.core.errors import UserError
from slm.model.four_bits import FourBits, levels_of_nf4, linear
from slm.model.integers import Grid, quantize, unpack

PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
"""QLoRA (arXiv 2305.14314), appendix E."""


def weight(rows: int = 6, inputs: int = 192) -> torch.Tensor:
    drawn = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(1)) * 0.05
    drawn[1, 64:128] = 0
    return drawn


def test_the_levels_are_the_published_ones() -> None:
    torch.testing.assert_close(levels_of_nf4(), torch.tensor(PUBLISHED), atol=2e-7, rtol=0)


def test_nf4_takes_the_nearest_level_of_each_group() -> None:
    held = FourBits(weight(), "nf4", "w")
    scales_OG = weight().view(6, 3, 64).abs().amax(-1)
    choices = torch.tensor(PUBLISHED) * scales_OG[..., None, None]
    wanted = (weight().view(6, 3, 64, 1) - choices).abs().amin(-1)
    found = (weight() - held.dense()).abs().view(6, 3, 64)
    torch.testing.assert_close(found, wanted, atol=1e-7, rtol=0)
    assert (held.dense()[1, 64:128] == 0).all()
    assert len(set(unpack(held.packed, 4).flatten().tolist())) == 16


def test_int4_is_the_grid_that_compressing_rounds_to() -> None:
    assert torch.equal(FourBits(weight(), "int4", "w").dense(), quantize(weight(), Grid(4, 64)).dequantize())


@pytest.mark.parametrize("kind", ["int4", "nf4"])
def test_a_product_and_its_gradient_are_those_of_the_matrix_that_the_codes_stand_for(kind: str) -> None:
    held = FourBits(weight(), kind, "w")
    x = torch.randn(2, 5, 192, generator=torch.Generator().manual_seed(2), requires_grad=True)
    y = x.detach().clone().requires_grad_()
    for each, out in ((x, linear(x, held)), (y, functional.linear(y, held.dense()))):
        out.square().sum().backward()
        assert each.grad is not None
    assert torch.equal(linear(x, held), functional.linear(y, held.dense()))
    torch.testing.assert_close(x.grad, y.grad)


def test_autocast_computes_in_its_type_and_hands_back_the_inputs() -> None:
    held = FourBits(weight(), "nf4", "w")
    x = torch.randn(3, 192, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = linear(x, held)
    out.float().sum().backward()
    assert (out.dtype, x.grad.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(("kind", "bits"), [("int4", 4.375), ("nf4", 4.5)])
def test_nothing_but_codes_and_scales_is_kept_between_forward_and_backward(kind: str, bits: float) -> None:
    held = FourBits(weight(64, 256), kind, "w")
    assert held.bytes * 8 == 64 * 256 * bits

    def kept(product: Callable[[torch.Tensor], torch.Tensor]) -> list[tuple[int, ...]]:
        shapes: list[tuple[int, ...]] = []
        x = torch.randn(2, 256, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda one: shapes.append(tuple(one.shape)) or one, lambda one: one
        ):
            product(x)
        return shapes

    assert not kept(lambda x: linear(x, held))
    assert (64, 256) in [tuple(sorted(shape)) for shape in kept(lambda x: functional.linear(x, held.dense()))]


def test_rows_that_do_not_fall_into_groups_are_refused() -> None:
    with pytest.raises(UserError, match=r"groups of 64 numbers, but the rows of blocks\.0\.ffn\.down have 100; set it"):
        FourBits(torch.zeros(2, 100), "nf4", "blocks.0.ffn.down")
