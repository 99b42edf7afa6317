"""What is learned from a store against what is learned from the whole distributions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slm.core.batch import IGNORED, Stored
from slm.distill.keep import draws, likeliest
from slm.objective.divergence import Divergence, against_teacher, linear_divergence
from slm.objective.stored import against_stored, from_likeliest
from tests.distill.test_keep import pieces, shares
from tests.objective.test_divergence import KINDS, VOCABULARY, names, plainly, tensors

FORWARD = [how for how in KINDS if how.kind == "forward_kl"]


def learned(stored: Stored | None, how: Divergence) -> tuple[Tensor, ...]:
    """Sums and gradients of a step, from a store, or from the teacher itself."""
    hidden, weight, theirs, head, targets = tensors()
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    against = against_teacher(theirs, head, how) if stored is None else against_stored(stored, how)
    sums = linear_divergence(*leaves, targets, against, how)
    sums.total.backward()
    return sums.total.detach(), sums.divergence, sums.nats, sums.agreed, *(leaf.grad for leaf in leaves)


def teacher_logits(how: Divergence) -> Tensor:
    _, _, theirs, head, _ = tensors()
    return theirs @ head.T / how.temperature


def stored_draws(how: Divergence, uniforms: Tensor, count: int) -> Stored:
    ids, values = draws(teacher_logits(how), uniforms, count)
    return Stored(ids[None].int(), values[None], sampled=True)


def stored_likeliest(how: Divergence, count: int) -> Stored:
    ids, p = likeliest(teacher_logits(how), count)
    return Stored(ids[None].int(), p[None], sampled=False)


@pytest.mark.parametrize("how", FORWARD, ids=names)
def test_over_all_draws_of_a_position_the_gradient_is_the_whole_ones(how: Divergence) -> None:
    """Each draw that may come at one position, with its probability; others stay as they were drawn first."""
    *_, targets = tensors()
    rows = len(targets)
    place = int((targets != IGNORED).nonzero()[2])
    points, weights = pieces(teacher_logits(how)[place].softmax(-1), 4)
    uniforms = torch.full((rows,), 0.5, dtype=torch.float64)
    found = []
    for point in points:
        uniforms[place] = point
        found.append(learned(stored_draws(how, uniforms, 4), how))
    stored = stored_draws(how, uniforms, 4)
    p = shares(stored.ids_BTK[0].long(), stored.values_BTF[0], VOCABULARY).float()
    p[place] = teacher_logits(how)[place].softmax(-1)
    wanted = against_fixed(p, how)
    assert len(found) > 20
    for mean, whole in zip((sum(w * part for w, part in zip(weights, each, strict=True)) for each in
                            list(zip(*found, strict=True))[4:]), wanted, strict=True):  # fmt: skip
        torch.testing.assert_close(mean.float(), whole, atol=2e-5, rtol=1e-4)


def against_fixed(p_NV: Tensor, how: Divergence) -> list[Tensor]:
    """Gradients of hidden states and head by autograd, where the teacher says `p_NV`."""
    hidden, weight, _, _, targets = tensors()
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    student, kept = leaves[0] @ leaves[1].T, targets != IGNORED
    log_q = (student / how.temperature).log_softmax(-1)
    soft = -(p_NV * log_q).sum(-1)[kept].sum()
    nats = torch.nn.functional.cross_entropy(student, targets, ignore_index=IGNORED, reduction="sum")
    (how.cross_entropy * nats + (1 - how.cross_entropy) * how.temperature**2 * soft).backward()
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


@pytest.mark.parametrize("how", FORWARD, ids=names)
def test_over_many_stores_loss_and_gradient_are_on_average_the_whole_ones(how: Divergence) -> None:
    """Of 400 stores: the mean lies within five standard errors of the whole, in every entry."""
    whole = learned(None, how)
    generator = torch.Generator().manual_seed(3)
    numbers = torch.rand(400, len(tensors()[0]), generator=generator, dtype=torch.float64)
    found = [learned(stored_draws(how, uniforms, 2), how) for uniforms in numbers]
    for each, wanted in zip(zip(*found, strict=True), whole, strict=True):
        parts = torch.stack(each).double()
        error = parts.std(0) / len(parts) ** 0.5
        assert bool(((parts.mean(0) - wanted).abs() <= 5 * error + 2e-5 * (1 + wanted.abs())).all())
    assert float(torch.stack([parts[4] for parts in found]).std(0).max()) > 0.01  # they do scatter


@pytest.mark.parametrize("how", KINDS, ids=names)
def test_the_likeliest_tokens_are_the_whole_where_they_are_all(how: Divergence) -> None:
    for found, wanted in zip(learned(stored_likeliest(how, VOCABULARY), how), learned(None, how), strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("how", KINDS, ids=names)
def test_the_other_tokens_count_as_one(how: Divergence) -> None:
    hidden, weight, _, _, targets = tensors()
    stored = stored_likeliest(how, 5)
    found = learned(stored, how)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    kept, ids = targets != IGNORED, stored.ids_BTK[0].long()
    student, teacher = leaves[0] @ leaves[1].T, teacher_logits(how) * how.temperature
    coarse = [coarsened(logits, ids, how.temperature) for logits in (student, teacher)]
    distance = plainly(*coarse, how)[kept].sum()
    nats = torch.nn.functional.cross_entropy(student, targets, ignore_index=IGNORED, reduction="sum")
    (how.cross_entropy * nats + (1 - how.cross_entropy) * how.temperature**2 * distance).backward()
    torch.testing.assert_close(found[1], distance.detach(), atol=1e-4, rtol=1e-4)
    assert float(found[1]) < float(learned(None, how)[1])
    for gradient, leaf in zip(found[4:], leaves, strict=True):
        torch.testing.assert_close(gradient, leaf.grad, atol=1e-4, rtol=1e-4)


def coarsened(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """Logits of the kept tokens and of all others as one outcome."""
    p = (logits / temperature).softmax(-1)
    mine = p.gather(1, ids)
    return torch.cat([mine, 1 - mine.sum(-1, keepdim=True)], -1).log() * temperature


@pytest.mark.parametrize("gap", [6.0, 9.0, 30.0])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_what_a_sure_teacher_leaves_to_others_survives_the_disk(kind: str, gap: float) -> None:
    """Values go through float16, as on disk; a student that says what the teacher does learns nothing."""
    generator = torch.Generator().manual_seed(5)
    teacher = torch.randn(64, 512, generator=generator).index_add_(1, torch.tensor([7]), torch.full((64, 1), gap))
    how, ids_values = Divergence(kind, 0.5, 1.0, 0.0), likeliest(teacher, 20)
    values = ids_values[1].half().float()
    same, slope = from_likeliest(teacher.clone(), ids_values[0], values, how)
    assert float(same.abs().max()) < 1e-4
    assert float(slope.abs().max()) < 1e-3 * float((1 - teacher.softmax(-1)[:, 7]).max()) + 1e-6
    other = torch.randn(64, 512, generator=generator).index_add_(1, torch.tensor([7]), torch.full((64, 1), gap))
    found, slopes = from_likeliest(other.clone(), ids_values[0], values, how)
    exact, exact_slopes = from_likeliest(other.clone(), *ids_values, how)
    torch.testing.assert_close(found, exact, rtol=5e-3, atol=1e-6)
    assert float((slopes - exact_slopes).norm()) < 0.005 * float(exact_slopes.norm()) + 1e-6
