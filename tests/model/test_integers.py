"""Weights on a grid: the nearest numbers, exactly those that files keep."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slm.core.errors import UserError
from slm.model.integers import Grid, Integers, fitting_sizes, grid_for, outside_grid, pack, quantize, unpack


def matrix(rows: int = 6, columns: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def nearest(weight: torch.Tensor, found: Integers) -> torch.Tensor:
    """By trying every integer: the number of the grid nearest to each weight."""
    groups = found.scales_OG.shape[1]
    steps = torch.arange(found.grid.largest + 1).float()
    numbers = (steps - found.zeros_OG.unsqueeze(-1)) * found.scales_OG.float().unsqueeze(-1)
    distances = (weight.unflatten(1, (groups, -1)).unsqueeze(-1) - numbers.unsqueeze(2)).abs()
    return distances.amin(-1).flatten(1)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [0, 16, 64])
@pytest.mark.parametrize("symmetric", [False, True])
def test_each_weight_becomes_the_nearest_number_of_its_grid(bits: int, group_size: int, symmetric: bool) -> None:
    weight = matrix()
    found = quantize(weight, Grid(bits, group_size, symmetric))
    distance = (found.dequantize() - weight).abs()
    torch.testing.assert_close(distance, nearest(weight, found), atol=1e-6, rtol=0)
    assert int(found.values_OI.max()) <= 2**bits - 1


def test_finer_grids_err_less_and_half_a_step_is_the_most_inside_the_range() -> None:
    weight = matrix(32, 256)
    errors = [
        float((quantize(weight, Grid(bits, size)).dequantize() - weight).square().mean())
        for bits, size in ((3, 64), (4, 256), (4, 64), (4, 32), (8, 0))
    ]
    assert errors == sorted(errors, reverse=True)
    found = quantize(weight, Grid(4, 64))
    step = found.scales_OG.float().repeat_interleave(64, dim=1)
    assert bool(((found.dequantize() - weight).abs() <= step * (0.5 + 16 * 2**-11)).all())


@given(st.integers(0, 10**6), st.sampled_from([2, 3, 4, 8]), st.booleans(), st.floats(1e-6, 1e3))
@settings(max_examples=40, deadline=None)
def test_what_lies_on_a_grid_is_kept_bit_for_bit(seed: int, bits: int, symmetric: bool, size: float) -> None:
    once = quantize(matrix(3, 32, seed) * size, Grid(bits, 16, symmetric))
    values = once.dequantize()
    assert torch.equal(once.values_OI, rounded_again(values, once).values_OI)


def rounded_again(values: torch.Tensor, once: Integers) -> Integers:
    from slm.model.integers import rounded

    return rounded(values, once.scales_OG, once.zeros_OG, once.grid)


@pytest.mark.parametrize("symmetric", [False, True])
def test_zeros_constants_and_one_sided_groups_keep_their_meaning(symmetric: bool) -> None:
    weight = torch.stack(
        [torch.zeros(32), torch.full((32,), 0.25), torch.full((32,), -3.0), matrix(1, 32)[0].abs() + 5]
    )
    back = quantize(weight, Grid(8, 32, symmetric)).dequantize()
    assert torch.equal(back[0], weight[0])
    torch.testing.assert_close(back[1:], weight[1:], rtol=0.02, atol=0)
    sparse = torch.where(matrix(4, 64) > 0.5, matrix(4, 64), torch.zeros(4, 64))
    assert bool((quantize(sparse, Grid(4, 64, symmetric)).dequantize()[sparse == 0] == 0).all())


def test_clipping_narrows_the_range_by_the_factor_asked_for() -> None:
    weight = matrix(4, 64)
    plain, half = quantize(weight, Grid(4, 32)), quantize(weight, Grid(4, 32), torch.full((4, 2), 0.5))
    torch.testing.assert_close(half.scales_OG, plain.scales_OG / 2, rtol=2e-3, atol=0)


@given(st.integers(1, 5), st.integers(1, 16), st.integers(2, 8), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_packing_loses_nothing(rows: int, pairs: int, bits: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 2**bits, (rows, 2 * pairs), generator=draw, dtype=torch.uint8)
    packed = pack(values, bits)
    assert packed.numel() == values.numel() // (2 if bits <= 4 else 1)
    assert torch.equal(unpack(packed, bits), values)


def test_a_group_that_does_not_divide_the_row_is_refused_with_those_that_do() -> None:
    assert fitting_sizes(576) == [64, 32]
    with pytest.raises(UserError, match=r"576 weights does not fall into groups of 128; take .* \(64, 32\), or 0"):
        quantize(torch.zeros(2, 576), Grid(4, 128))


def test_a_misfit_is_refused_or_given_the_next_group() -> None:
    words = ("attention.q", "compress.variants.int4", "compress.on_misfit")
    with pytest.raises(
        UserError,
        match=r"^compress\.variants\.int4\.group_size \(128\) does not divide the rows of attention\.q \(576 "
        r"weights\); take 64, set compress\.on_misfit=next",
    ):
        grid_for(Grid(4, 128), 576, *words, take_next=False)
    assert grid_for(Grid(4, 128, symmetric=True), 576, *words, take_next=True) == Grid(4, 64, symmetric=True)
    assert grid_for(Grid(4, 64), 576, *words, take_next=False) == Grid(4, 64)
    with pytest.raises(UserError, match="take 0"):
        grid_for(Grid(4, 128), 60, *words, take_next=True)
    assert [outside_grid(8, inputs).group_size for inputs in (768, 576, 60)] == [256, 64, 0]
