"""Draws are right on average, exactly; what is drawn depends on seed, row and position alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from slm.distill.keep import draws, likeliest, uniforms

VOCABULARY = 11


def logits(rows: int = 1, seed: int = 0) -> Tensor:
    return 2 * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def pieces(p_V: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """All draws that can come of a distribution: a uniform number for each, and how likely it is that it comes."""
    ends = np.unique(np.concatenate([[0.0, 1.0], (p_V.double().cumsum(0).numpy() * count) % 1.0]))
    return torch.from_numpy((ends[1:] + ends[:-1]) / 2), torch.from_numpy(np.diff(ends))


@pytest.mark.parametrize("count", [1, 3, 16])
def test_over_all_uniform_numbers_the_shares_are_the_distribution(count: int) -> None:
    one = logits()
    p_V = one[0].double().softmax(-1)
    points, weights = pieces(p_V, count)
    ids, _ = draws(one.expand(len(points), -1), points, count)
    shares = torch.nn.functional.one_hot(ids[:, 1:], VOCABULARY).double().mean(1)
    assert len(points) > VOCABULARY - 2
    torch.testing.assert_close((weights[:, None] * shares).sum(0), p_V, atol=1e-6, rtol=0)


def test_a_token_is_drawn_its_share_of_times_rounded_down_or_up() -> None:
    many = logits(200, seed=1)
    ids, _ = draws(many, torch.from_numpy(uniforms(7, 0, 200)), 16)
    counts = torch.nn.functional.one_hot(ids[:, 1:], VOCABULARY).sum(1)
    wanted = 16 * many.softmax(-1)
    assert ids.shape == (200, 17)
    assert bool(((counts >= (wanted - 1e-4).floor()) & (counts <= (wanted + 1e-4).ceil())).all())


def test_the_likeliest_and_the_entropy_stand_beside_the_draws() -> None:
    many = logits(50, seed=2)
    ids, entropy = draws(many, torch.from_numpy(uniforms(7, 0, 50)), 4)
    assert torch.equal(ids[:, 0], many.argmax(-1))
    torch.testing.assert_close(entropy[:, 0], torch.distributions.Categorical(logits=many).entropy())


def test_what_cannot_come_is_never_drawn() -> None:
    sure = torch.full((3, VOCABULARY), -torch.inf)
    sure[:, 4] = 0.0
    ids, entropy = draws(sure.clamp_min(-1e4), torch.tensor([0.0, 0.5, 1 - 1e-16], dtype=torch.float64), 5)
    assert bool((ids == 4).all())
    assert bool((entropy == 0).all())


def test_a_number_is_a_function_of_seed_row_and_position() -> None:
    assert uniforms(7, 3, 8).tolist() == uniforms(7, 3, 8).tolist()
    assert uniforms(7, 3, 4).tolist() == uniforms(7, 3, 8)[:4].tolist()
    assert uniforms(7, 4, 8).tolist() != uniforms(7, 3, 8).tolist()
    assert uniforms(8, 3, 8).tolist() != uniforms(7, 3, 8).tolist()
    assert abs(uniforms(7, 3, 10_000).mean() - 0.5) < 0.02


def test_the_likeliest_tokens_come_in_order_with_their_probabilities() -> None:
    many = logits(20, seed=3)
    ids, p = likeliest(many, 5)
    wanted = many.softmax(-1).sort(-1, descending=True)
    assert torch.equal(ids, wanted.indices[:, :5])
    torch.testing.assert_close(p, wanted.values[:, :5])
