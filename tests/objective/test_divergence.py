"""Distances between distributions, in chunks, against autograd over whole logits and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from slm.core.batch import IGNORED
from slm.objective import divergence as module
from slm.objective.divergence import Divergence, against_teacher, divergence, linear_divergence

ROWS, WIDTH, TEACHER_WIDTH, VOCABULARY = 23, 12, 20, 41
KINDS = [
    Divergence("forward_kl", 0.5, 1.0, 0.0),
    Divergence("forward_kl", 0.5, 2.5, 0.3),
    Divergence("reverse_kl", 0.5, 1.0, 0.0),
    Divergence("reverse_kl", 0.5, 0.7, 0.5),
    Divergence("jsd", 0.5, 1.0, 0.0),
    Divergence("jsd", 0.1, 2.0, 0.2),
]


def names(how: Divergence) -> str:
    return f"{how.kind} {how.beta} at {how.temperature} with {how.cross_entropy}"


def tensors() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(ROWS, WIDTH, generator=generator), torch.randn(VOCABULARY, WIDTH, generator=generator)
    theirs = torch.randn(ROWS, TEACHER_WIDTH, generator=generator)
    head = torch.randn(VOCABULARY, TEACHER_WIDTH, generator=generator) * 0.5
    targets = torch.randint(0, VOCABULARY, (ROWS,), generator=generator)
    targets[::4] = IGNORED
    return hidden, weight, theirs, head, targets


def plainly(student: Tensor, teacher: Tensor, how: Divergence) -> Tensor:
    """D of each row by torch's kl_div, which takes the distribution that is judged first, as logarithms."""
    log_q, log_p = (student / how.temperature).log_softmax(-1), (teacher / how.temperature).log_softmax(-1)

    def kl(left: Tensor, right: Tensor) -> Tensor:
        return functional.kl_div(right, left, log_target=True, reduction="none").sum(-1)

    if how.kind == "forward_kl":
        return kl(log_p, log_q)
    if how.kind == "reverse_kl":
        return kl(log_q, log_p)
    log_m = torch.logsumexp(torch.stack([log_p + math.log(how.beta), log_q + math.log(1 - how.beta)]), 0)
    return how.beta * kl(log_p, log_m) + (1 - how.beta) * kl(log_q, log_m)


@pytest.mark.parametrize("how", KINDS, ids=names)
@pytest.mark.parametrize("chunk", [5, 512])
def test_value_and_gradients_equal_autograds(monkeypatch: pytest.MonkeyPatch, how: Divergence, chunk: int) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", chunk)
    hidden, weight, theirs, head, targets = tensors()
    ours = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    mine = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    sums = linear_divergence(*ours, targets, against_teacher(theirs, head, how), how)
    student, teacher, kept = mine[0] @ mine[1].T, theirs @ head.T, targets != IGNORED
    distance = plainly(student, teacher, how)[kept].sum()
    nats = functional.cross_entropy(student, targets, ignore_index=IGNORED, reduction="sum")
    expected = how.cross_entropy * nats + (1 - how.cross_entropy) * how.temperature**2 * distance
    (2.0 * sums.total).backward()
    (2.0 * expected).backward()
    torch.testing.assert_close(sums.total, expected)
    torch.testing.assert_close(sums.nats, nats.detach())
    torch.testing.assert_close(sums.divergence, distance.detach())
    assert int(sums.agreed) == int((student.argmax(-1) == teacher.argmax(-1))[kept].sum())
    for found, wanted in zip(ours, mine, strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", KINDS, ids=names)
def test_a_student_that_says_what_its_teacher_says_is_at_no_distance(how: Divergence) -> None:
    logits = torch.randn(7, VOCABULARY, generator=torch.Generator().manual_seed(1))
    found, slopes = divergence(logits, logits + 3.0, how)
    assert float(found.abs().max()) < 1e-6
    assert float(slopes.abs().max()) < 1e-6


def test_between_two_sides_of_a_coin_the_closed_forms_hold() -> None:
    student, teacher = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.5, 0.5]]).log()
    forward = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    backward = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    middle = [0.65, 0.35]
    jsd = 0.5 * sum(0.5 * math.log(0.5 / m) for m in middle) + 0.5 * (
        0.8 * math.log(0.8 / 0.65) + 0.2 * math.log(0.2 / 0.35)
    )
    for kind, wanted in (("forward_kl", forward), ("reverse_kl", backward), ("jsd", jsd)):
        found, _ = divergence(student, teacher, Divergence(kind, 0.5, 1.0, 0.0))  # type: ignore[arg-type]
        assert float(found) == pytest.approx(wanted, abs=1e-6)


def test_distributions_that_leave_out_what_the_other_says_stay_finite() -> None:
    student, teacher = torch.tensor([[0.0, -200.0, -200.0]]), torch.tensor([[-200.0, 0.0, -200.0]])
    for how in KINDS:
        found, slopes = divergence(student, teacher, how)
        assert bool(torch.isfinite(found).all())
        assert bool(torch.isfinite(slopes).all())
