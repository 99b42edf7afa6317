"""Log-probabilities in chunks against the same from all logits, values and gradients."""

from __future__ import annotations

import pytest
import torch

from slm.core.batch import IGNORED
from slm.objective import linear_log_probs as module
from slm.objective.linear_log_probs import linear_log_probs
from tests.operations import Operations


def inputs(rows: int = 23) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(n, 16, generator=generator, requires_grad=True) for n in (rows, 41))
    targets = torch.randint(0, 41, (rows,), generator=generator)
    targets[::3] = IGNORED
    return hidden, weight, targets


@pytest.mark.parametrize("chunk", [4, 1024])
def test_values_and_gradients_are_those_of_all_logits(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", chunk)
    hidden, weight, targets = inputs()
    found = linear_log_probs(hidden, weight, targets)
    whole = (hidden @ weight.T).log_softmax(-1).gather(1, targets.clamp_min(0)[:, None])[:, 0]
    expected = torch.where(targets == IGNORED, 0.0, whole)
    torch.testing.assert_close(found, expected)
    weights = torch.linspace(-2, 3, len(targets))
    ours = torch.autograd.grad((found * weights).sigmoid().sum(), (hidden, weight))
    theirs = torch.autograd.grad((expected * weights).sigmoid().sum(), (hidden, weight))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_rows_without_a_target_have_no_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", 8)
    hidden, weight, targets = inputs(200)
    with Operations() as seen:
        linear_log_probs(hidden, weight, targets).sum().backward()
    assert seen.largest < 200 * 41
