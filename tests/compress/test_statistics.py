"""What is kept of the inputs of a linear is what they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slm.compress.statistics import InputStatistics


def test_parts_of_the_text_sum_to_the_whole(layer: Any) -> None:
    x_NI, found = layer.x_NI.double(), layer.statistics
    assert found.tokens == 2_000
    torch.testing.assert_close(found.mean(), x_NI.abs().mean(0).float())
    torch.testing.assert_close(found.gram_II.double(), x_NI.T @ x_NI, rtol=1e-4, atol=1e-2)


def test_inputs_divided_by_a_scale_have_the_statistics_of_those_inputs(layer: Any) -> None:
    scale_I = torch.linspace(0.5, 2, 128)
    x_NI = layer.x_NI / scale_I
    found = layer.statistics.scaled(scale_I)
    torch.testing.assert_close(found.mean(), x_NI.abs().mean(0))
    torch.testing.assert_close(found.gram_II, x_NI.T @ x_NI, rtol=1e-3, atol=1e-2)


def test_panels_and_their_mirror_images_are_the_whole_matrix(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm.compress.statistics.PANEL", 48)
    found = InputStatistics(128)
    for part_NI in layer.x_NI.split(900):
        found.add(part_NI)
        assert torch.equal(found.gram_II, found.gram_II.T)
    torch.testing.assert_close(found.gram_II, layer.statistics.gram_II, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(found.scaled(torch.full((128,), 2.0)).gram_II, found.gram_II / 4)
