"""The record that flows from the loader to the model."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from slm.core.batch import IGNORED, Batch


def batch() -> Batch:
    tokens_BT = torch.arange(6).reshape(2, 3)
    return Batch(tokens_BT, tokens_BT + 10, (tokens_BT + 20).int(), tokens_BT + 30, 5)


def test_moving_keeps_every_field_in_its_place() -> None:
    before = batch()
    after = before.to("meta")
    assert all(tensor.device.type == "meta" for tensor in tensors(after))
    same = before.to("cpu")
    assert all(torch.equal(old, new) for old, new in zip(tensors(before), tensors(same), strict=True))
    assert [tensor.dtype for tensor in tensors(same)] == [torch.int64, torch.int64, torch.int32, torch.int64]
    assert same.num_targets == after.num_targets == 5


def test_a_batch_has_no_room_for_other_fields() -> None:
    with pytest.raises(AttributeError):
        batch().mask = 1  # type: ignore[attr-defined]


def test_ignored_targets_are_what_cross_entropy_ignores() -> None:
    logits = torch.zeros(1, 4)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([IGNORED]), reduction="sum")
    assert loss.item() == 0


def tensors(record: Batch) -> list[torch.Tensor]:
    values = (getattr(record, field.name) for field in dataclasses.fields(record))
    return [value for value in values if isinstance(value, torch.Tensor)]
