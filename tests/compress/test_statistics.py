"""What is kept of the inputs of a linear is what they were."""

from __future__ import annotations

from typing import Any

import torch


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
