"""Sampling against transformers' own processors, and what must hold at the edges."""

from __future__ import annotations

import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from slm.core.errors import DamagedError
from slm.serve.config import ServeConfig
from slm.serve.sampling import (
    Sampler,
    draw,
    greedy,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise_repetition,
    scale_temperature,
)


def random_logits(seed: int, rows: int = 8, vocabulary: int = 500) -> torch.Tensor:
    return 4 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("penalty", "temperature", "top_k", "top_p", "min_p"),
    [(1.3, 0.7, 40, 0.9, 0.05), (1.0, 1.5, 500, 0.5, 0.0), (2.0, 0.1, 1, 0.01, 0.9), (1.1, 1.0, 9999, 0.99, 0.001)],
)
def test_the_chain_equals_transformers_processors(
    seed: int, penalty: float, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits_BV = random_logits(seed)
    seen_BT = torch.randint(500, (8, 30), generator=torch.Generator().manual_seed(seed))
    theirs = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(penalty),
            TemperatureLogitsWarper(temperature),
            TopKLogitsWarper(top_k),
            TopPLogitsWarper(top_p),
            MinPLogitsWarper(min_p),
        ]
    )(seen_BT, logits_BV.clone())
    ours = penalise_repetition(logits_BV, seen_BT, penalty)
    ours = keep_min_p(keep_top_p(keep_top_k(scale_temperature(ours, temperature), top_k), top_p), min_p)
    assert torch.equal(ours, theirs)


def test_one_row_alone_equals_the_row_in_a_batch() -> None:
    logits_BV = random_logits(1)
    seen_BT = torch.randint(500, (8, 30), generator=torch.Generator().manual_seed(1))

    def chain(logits: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return keep_min_p(keep_top_p(keep_top_k(penalise_repetition(logits, seen, 1.2), 60), 0.8), 0.01)

    batch = chain(logits_BV, seen_BT)
    for row in range(8):
        assert torch.equal(chain(logits_BV[row], seen_BT[row]), batch[row])


def test_the_functions_leave_their_argument_alone() -> None:
    logits_BV = random_logits(2)
    before = logits_BV.clone()
    penalise_repetition(logits_BV, torch.zeros(8, 1, dtype=torch.long), 2.0)
    keep_min_p(keep_top_p(keep_top_k(logits_BV, 5), 0.5), 0.1)
    assert torch.equal(logits_BV, before)


def test_draws_follow_the_probabilities() -> None:
    logits_V = torch.tensor([2.0, 1.0, 0.0, -torch.inf])
    generator = torch.Generator().manual_seed(0)
    drawn = draw(logits_V.expand(20_000, 4), generator)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert torch.allclose(shares, logits_V.softmax(-1), atol=0.01)
    assert shares[3] == 0


def test_temperature_zero_takes_the_likeliest_after_the_penalty() -> None:
    settings = ServeConfig(temperature=0, repetition_penalty=3.0)
    logits_V = torch.tensor([5.0, 4.0, -1.0])
    assert Sampler(settings).pick(logits_V, torch.tensor([], dtype=torch.long)) == 0
    assert Sampler(settings).pick(logits_V, torch.tensor([0])) == 1


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300])
def test_a_tiny_temperature_is_greedy_and_stays_finite(temperature: float) -> None:
    settings = ServeConfig(temperature=temperature, top_k=0, top_p=1)
    logits_V = random_logits(3)[0]
    picks = {Sampler(settings.model_copy(update={"seed": s})).pick(logits_V, torch.tensor([])) for s in range(20)}
    assert picks == {int(logits_V.argmax())}


def test_equal_seeds_give_equal_draws_and_other_seeds_others() -> None:
    rows = random_logits(4, rows=40)
    nothing = torch.tensor([], dtype=torch.long)

    def draws(seed: int) -> list[int]:
        sampler = Sampler(ServeConfig(temperature=1.0, top_k=0, top_p=1.0, seed=seed))
        return [sampler.pick(row, nothing) for row in rows]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_refused(bad: float, temperature: float) -> None:
    logits_V = torch.tensor([1.0, bad, 0.0])
    with pytest.raises(DamagedError, match="instead of finite numbers; its weights are damaged or it diverged"):
        Sampler(ServeConfig(temperature=temperature, top_k=0, top_p=1)).pick(logits_V, torch.tensor([]))


def test_greedy_takes_the_first_of_equals() -> None:
    assert greedy(torch.tensor([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0]])).tolist() == [1, 0]


def test_an_empty_stop_text_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        ServeConfig(stop=("a", ""))
