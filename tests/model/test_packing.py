"""A row of many sequences equals the sequences alone, and what is not wanted is not computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from slm.model.cache import KVCache
from slm.model.config import ModelConfig
from slm.model.packing import Packing, Stretches, additive
from slm.model.transformer import build


@torch.no_grad()
def test_sequences_in_one_row_come_out_as_each_alone(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor]
) -> None:
    model, first, second = build(shape(), 3), tokens(1, 6), tokens(1, 4)
    row, positions = torch.cat((first, second), 1), torch.tensor([[*range(6), *range(4)]])
    places = torch.tensor([[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 9, 9]])  # the second is shorter and repeats its last
    sees = torch.ones(2, 6, 6, dtype=torch.bool).tril()
    sees[1, 4:] = sees[1, 3]
    every = Stretches(places, torch.tensor([[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 0, 0]]), sees)
    wanted = torch.tensor([2, 5, 9])
    last = Stretches(torch.tensor([[0, 1], [2, 2]]), every.slots_BK, sees[[[0], [1]], [[2, 5], [3, 3]]])
    found = model.hidden(row, positions_BT=positions, packing=Packing([every], wanted, [last]))
    expected = torch.cat((model.hidden(first)[:, [2, 5]], model.hidden(second)[:, [3]]), 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_sequences_in_one_row_see_what_the_cache_holds(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor]
) -> None:
    model, prefix, ends = build(shape(), 3), tokens(1, 5), tokens(2, 2)
    cache = KVCache(model.config, 1, 9)
    model.hidden(prefix, cache=cache)
    sees = torch.tensor([[True] * 5 + [True, False], [True] * 7]).expand(2, 2, 7)
    slots = torch.tensor([[*range(5), 5, 6], [*range(5), 7, 8]])
    both = Stretches(torch.tensor([[0, 1], [2, 3]]), slots, sees)
    packing = Packing([both], torch.arange(4), [both])
    found = model.hidden(ends.view(1, 4), positions_BT=torch.tensor([[5, 6, 5, 6]]), packing=packing, cache=cache)
    expected = model.hidden(torch.cat((prefix.expand(2, 5), ends), 1))[:, 5:]
    torch.testing.assert_close(found.view_as(expected), expected, atol=1e-5, rtol=0)


def test_a_mask_is_nothing_where_a_slot_is_seen() -> None:
    assert additive(torch.tensor([[[True, False]]]), torch.float32).tolist() == [[[[0.0, -torch.inf]]]]
