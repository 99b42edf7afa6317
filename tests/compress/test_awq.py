"""AWQ's search: what it minimises is the error of the outputs, and it finds less of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slm.compress.awq import output_error, search_clip, search_scale
from slm.model.integers import Grid, quantize

GRID = Grid(4, 64)


def test_the_error_from_the_gram_matrix_is_that_of_the_outputs(layer: Any) -> None:
    rounded = quantize(layer.weight_OI, GRID).dequantize()
    found = output_error(rounded - layer.weight_OI, layer.statistics.gram_II)
    assert found == pytest.approx(layer.error(rounded), rel=1e-3)


def test_scaling_lowers_the_error_of_the_outputs_and_says_by_how_much(layer: Any) -> None:
    best = search_scale([layer.weight_OI], layer.statistics, GRID)
    scaled = quantize(layer.weight_OI * best.scale_I, GRID).dequantize() / best.scale_I
    assert layer.error(scaled) == pytest.approx(best.error, rel=1e-3)
    assert layer.error(quantize(layer.weight_OI, GRID).dequantize()) == pytest.approx(best.plain_error, rel=1e-3)
    assert best.error < 0.9 * best.plain_error


def test_a_part_of_the_rows_finds_a_scale_as_good_as_all(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search_scale([layer.weight_OI], layer.statistics, GRID)
    monkeypatch.setattr("slm.compress.awq.SEARCHED_ROWS", 12)
    part = search_scale([layer.weight_OI], layer.statistics, GRID)
    assert part.plain_error != whole.plain_error
    assert part.plain_error == pytest.approx(whole.plain_error, rel=0.2)
    scaled = quantize(layer.weight_OI * part.scale_I, GRID).dequantize() / part.scale_I
    assert layer.error(scaled) < 1.1 * whole.error


def test_inputs_that_come_from_one_place_share_its_scale(layer: Any) -> None:
    shared_I = torch.arange(128) % 32
    scale_I = search_scale([layer.weight_OI], layer.statistics, GRID, shared_I).scale_I
    assert torch.equal(scale_I, scale_I[:32].repeat(4))
    assert len(scale_I.unique()) > 1


def test_clipping_lowers_the_error_of_each_group_alone(layer: Any) -> None:
    grid, gram_II = Grid(3, 64), layer.statistics.gram_II
    clip_OG = search_clip(layer.weight_OI, gram_II, grid)
    assert clip_OG.shape == (48, 2)
    assert 0.5 <= float(clip_OG.min()) < float(clip_OG.max()) <= 1

    def group_errors(clip: torch.Tensor | None) -> torch.Tensor:
        difference = quantize(layer.weight_OI, grid, clip).dequantize() - layer.weight_OI
        parts = [
            ((difference[:, at : at + 64] @ gram_II[at : at + 64, at : at + 64]) * difference[:, at : at + 64]).sum(1)
            for at in (0, 64)
        ]
        return torch.stack(parts, dim=1)

    plain_OG, clipped_OG = group_errors(None), group_errors(clip_OG)
    assert bool((clipped_OG <= plain_OG * (1 + 1e-5)).all())
    assert float(clipped_OG.sum()) < 0.95 * float(plain_OG.sum())


def test_clipping_is_the_same_however_many_rows_are_searched_at_once(
    layer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search_clip(layer.weight_OI, layer.statistics.gram_II, GRID)
    monkeypatch.setattr("slm.compress.awq.ROWS_AT_ONCE", 128 * 5)
    assert torch.equal(search_clip(layer.weight_OI, layer.statistics.gram_II, GRID), whole)
