"""Draws are right on average, exactly; what is drawn depends on seed, row and position alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from slm.distill.keep import draws, likeliest, uniforms

VOCABULARY = 11


def shares(ids_CK: Tensor, values_C2: Tensor, num_ids: int) -> Tensor:
    """What a position's entry says of each token: the likeliest has what it leaves not to the others."""
    rest_C1 = values_C2[:, 1:].double()
    drawn = torch.nn.functional.one_hot(ids_CK[:, 1:], num_ids).double().mean(1)
    return rest_C1 * drawn + (1 - rest_C1) * torch.nn.functional.one_hot(ids_CK[:, 0], num_ids)


def logits(rows: int = 1, seed: int = 0) -> Tensor:
    return 2 * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def pieces(p_V: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """All draws that can come of a distribution: a uniform number for each, and how likely it is that it comes."""
    others_V = p_V.double().index_fill(0, p_V.argmax(), 0.0)
    ends = np.unique(np.concatenate([[0.0, 1.0], ((others_V / others_V.sum()).cumsum(0).numpy() * count) % 1.0]))
    return torch.from_numpy((ends[1:] + ends[:-1]) / 2), torch.from_numpy(np.diff(ends))


@pytest.mark.parametrize("count", [1, 3, 16])
def test_over_all_uniform_numbers_the_shares_are_the_distribution(count: int) -> None:
    one = logits()
    p_V = one[0].double().softmax(-1)
    points, weights = pieces(p_V, count)
    found = shares(*draws(one.expand(len(points), -1), points, count), VOCABULARY)
    assert len(points) > VOCABULARY - 3
    torch.testing.assert_close((weights[:, None] * found).sum(0), p_V, atol=1e-6, rtol=0)


def test_a_token_is_drawn_its_share_of_times_rounded_down_or_up() -> None:
    many = logits(200, seed=1)
    ids, _ = draws(many, torch.from_numpy(uniforms(7, 0, 200)), 16)
    counts = torch.nn.functional.one_hot(ids[:, 1:], VOCABULARY).sum(1)
    others = many.scatter(1, ids[:, :1], -torch.inf)
    wanted = 16 * others.softmax(-1)
    assert ids.shape == (200, 17)
    assert bool(((counts >= (wanted - 1e-4).floor()) & (counts <= (wanted + 1e-4).ceil())).all())


def test_the_likeliest_its_share_and_the_entropy_stand_beside_draws_of_the_others() -> None:
    many = logits(50, seed=2)
    ids, values = draws(many, torch.from_numpy(uniforms(7, 0, 50)), 4)
    assert torch.equal(ids[:, 0], many.argmax(-1))
    assert not bool((ids[:, 1:] == ids[:, :1]).any())
    torch.testing.assert_close(values[:, 0], torch.distributions.Categorical(logits=many).entropy())
    torch.testing.assert_close(1 - values[:, 1], many.softmax(-1).max(-1).values)


def test_shares_scatter_less_than_those_of_draws_that_hold_the_likeliest_too() -> None:
    one = logits(1, seed=4)
    p_V = one[0].double().softmax(-1)
    found = shares(*draws(one.expand(4_000, -1), torch.from_numpy(uniforms(7, 0, 4_000)), 4), VOCABULARY)
    parts = (4 * p_V) % 1
    whole = float((parts * (1 - parts)).sum()) / 16  # systematic draws of the whole distribution
    assert float(found.var(0).sum()) < 0.8 * whole


def test_what_cannot_come_is_never_drawn() -> None:
    sure = torch.full((3, VOCABULARY), -torch.inf)
    sure[:, 4] = 0.0
    ids, values = draws(sure.clamp_min(-1e4), torch.tensor([0.0, 0.5, 1 - 1e-16], dtype=torch.float64), 5)
    assert bool((ids[:, 0] == 4).all())
    assert bool((ids < VOCABULARY).all())
    assert not values.any()  # neither entropy, nor a share of what was drawn
    sure[:, 6:8] = 0.0
    ids, values = draws(sure.clamp_min(-1e4), torch.tensor([0.0, 0.5, 1 - 1e-16], dtype=torch.float64), 5)
    assert set(ids[:, 1:].flatten().tolist()) == {6, 7}
    torch.testing.assert_close(values[:, 1], torch.full((3,), 2 / 3))


def test_a_number_is_a_function_of_seed_row_and_position() -> None:
    assert uniforms(7, 3, 8).tolist() == uniforms(7, 3, 8).tolist()
    assert uniforms(7, 3, 4).tolist() == uniforms(7, 3, 8)[:4].tolist()
    assert uniforms(7, 4, 8).tolist() != uniforms(7, 3, 8).tolist()
    assert uniforms(8, 3, 8).tolist() != uniforms(7, 3, 8).tolist()
    assert abs(uniforms(7, 3, 10_000).mean() - 0.5) < 0.02


def test_the_likeliest_tokens_come_in_order_with_their_probabilities() -> None:
    many = logits(20, seed=3)
    ids, values = likeliest(many, 5)
    wanted = many.softmax(-1).sort(-1, descending=True)
    assert torch.equal(ids, wanted.indices[:, :5])
    torch.testing.assert_close(values[:, 1:], wanted.values[:, 1:5])
    torch.testing.assert_close(values[:, 0], wanted.values[:, 5:].sum(-1))
    assert not bool(likeliest(many, VOCABULARY)[1][:, 0].any())
