"""The record that objectives return."""

from __future__ import annotations

import pytest
import torch

from slm.objective.loss import Loss


def test_a_loss_is_a_slotted_record_without_room_for_strays():
    loss = Loss(torch.ones(()), torch.ones(()), 3)
    assert loss.metrics == {}
    with pytest.raises(AttributeError):
        loss.perplexity = 1.0  # type: ignore[attr-defined]
