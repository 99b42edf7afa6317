"""The chunked head against torch's cross_entropy on full logits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from slm.core.batch import IGNORED
from slm.objective import linear_cross_entropy as module
from slm.objective.linear_cross_entropy import linear_cross_entropy
from tests.operations import Operations

ROWS, WIDTH, VOCABULARY = 37, 16, 53


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator)
    targets = torch.randint(0, VOCABULARY, (ROWS,), generator=generator)
    targets[::5] = IGNORED
    return hidden, weight, targets


def reference(hidden, weight, targets, z_loss, smoothing=0.0):
    logits = hidden @ weight.T
    nats = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)
    penalty = z_loss * (torch.logsumexp(logits, 1)[targets != IGNORED] ** 2).sum()
    return nats + penalty, nats


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("chunk", [4, 37, 1000])
def test_value_and_gradients_equal_full_logits(inputs, monkeypatch, z_loss, chunk):
    monkeypatch.setattr(module, "CHUNK_ROWS", chunk)
    hidden, weight, targets = inputs
    ours = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    theirs = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    total, nats = linear_cross_entropy(*ours, targets, z_loss=z_loss)
    expected_total, expected_nats = reference(*theirs, targets, z_loss)
    (3.0 * total).backward()
    (3.0 * expected_total).backward()
    torch.testing.assert_close(total, expected_total)
    torch.testing.assert_close(nats, expected_nats.detach())
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, expected.grad)


@pytest.mark.parametrize("chunk", [4, 1000])
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.1, 0.0), (0.3, 0.01)])
def test_label_smoothing_equals_torchs_and_leaves_the_reported_loss_plain(
    inputs, monkeypatch, chunk, smoothing, z_loss
):
    monkeypatch.setattr(module, "CHUNK_ROWS", chunk)
    hidden, weight, targets = inputs
    ours = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    theirs = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    total, nats = linear_cross_entropy(*ours, targets, z_loss=z_loss, label_smoothing=smoothing)
    expected, _ = reference(*theirs, targets, z_loss, smoothing)
    (3.0 * total).backward()
    (3.0 * expected).backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(nats, reference(hidden, weight, targets, 0.0)[1])
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_reported_cross_entropy_carries_no_gradient(inputs):
    hidden, weight, targets = inputs
    total, nats = linear_cross_entropy(hidden.requires_grad_(), weight, targets)
    assert total.requires_grad
    assert not nats.requires_grad


def test_tied_weight_collects_gradients_of_both_uses(inputs):
    _, weight, targets = inputs
    tied = weight.clone().requires_grad_()
    ids = torch.arange(ROWS)
    linear_cross_entropy(functional.embedding(ids, tied), tied, targets)[0].backward()
    again = weight.clone().requires_grad_()
    reference(functional.embedding(ids, again), again, targets, 0.0)[0].backward()
    torch.testing.assert_close(tied.grad, again.grad)


def test_under_autocast_products_run_in_bf16_and_stay_close(inputs):
    hidden, weight, targets = inputs
    exact = reference(hidden, weight, targets, 0.0)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = linear_cross_entropy(hidden, weight, targets)
    assert total.dtype == torch.float32
    assert total != exact
    torch.testing.assert_close(total, exact, rtol=2e-2, atol=0)


def test_without_gradients_nothing_is_kept(inputs, monkeypatch):
    inputs[1].requires_grad_()  # as the head's weight is, also while it is only evaluated
    monkeypatch.setattr(torch, "zeros_like", lambda *_, **__: pytest.fail("room was made for a gradient"))
    with torch.no_grad():
        total, nats = linear_cross_entropy(*inputs)
    assert not total.requires_grad
    torch.testing.assert_close(total, nats)


def test_all_targets_ignored_is_zero_with_zero_gradient(inputs):
    hidden, weight, targets = inputs
    hidden.requires_grad_()
    total, _ = linear_cross_entropy(hidden, weight, torch.full_like(targets, IGNORED))
    total.backward()
    assert total == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_the_loss_of_each_row_is_told_on_request_and_changes_nothing(inputs, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ROWS", 8)
    hidden, weight, targets = inputs
    hidden, again = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    nats_N = torch.full((ROWS,), torch.nan)
    options = {"z_loss": 0.01, "label_smoothing": 0.1}
    told = linear_cross_entropy(hidden, weight, targets, **options, nats_N=nats_N)
    silent = linear_cross_entropy(again, weight, targets, **options)
    logits = inputs[0] @ weight.T
    torch.testing.assert_close(
        nats_N, functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    )
    assert told == silent
    told[0].backward()
    silent[0].backward()
    assert torch.equal(hidden.grad, again.grad)


@pytest.mark.parametrize(
    "options",
    [{}, {"z_loss": 0.01, "label_smoothing": 0.1}, {"nats_N": torch.empty(ROWS)}],
    ids=["plain", "penalties", "by row"],
)
@pytest.mark.parametrize("bf16", [False, True])
def test_logits_of_all_rows_are_never_held(inputs, monkeypatch, options, bf16):
    """Neither forward nor backward makes a tensor of [rows, vocabulary]; with all rows in one chunk, they do."""
    hidden, weight, targets = inputs
    held = {}
    for chunk in (4, 10**9):
        monkeypatch.setattr(module, "CHUNK_ROWS", chunk)
        ours = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16), Operations() as seen:
            linear_cross_entropy(*ours, targets, **options)[0].backward()
        held[chunk] = seen.largest
    assert held[4] < ROWS * VOCABULARY <= held[10**9]
