"""Each loss against its closed form on answers scored one by one, and what packing and gradients make of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from torch.nn.functional import logsigmoid

from slm.core.batch import IGNORED, Batch
from slm.core.errors import UserError
from slm.model.transformer import Transformer, build
from slm.objective import build as build_objective
from slm.objective.config import ObjectiveConfig, PreferenceConfig
from slm.objective.mismatched import mismatched
from slm.objective.preference import Preference, Reference, answer_sums, pair_losses
from tests.objective.test_next_token import SHAPE

Document = tuple[list[int], list[int], list[int]]
"""Ids of the prompt, of the answer and of what ends the turn."""


def row(documents: Sequence[Document], seq_len: int) -> Batch:
    tokens, targets = torch.full((1, seq_len), 3), torch.full((1, seq_len), IGNORED)
    numbers, positions = torch.full((1, seq_len), -1, dtype=torch.int32), torch.zeros((1, seq_len), dtype=torch.int64)
    begin = 0
    for number, (prompt, answer, tail) in enumerate(documents):
        told = torch.tensor([*prompt, *answer, *tail])
        mine, first = slice(begin, begin + len(told)), begin + len(prompt)
        tokens[0, mine], numbers[0, mine], positions[0, mine] = told, number, torch.arange(len(told))
        targets[0, first - 1 : first - 1 + len(answer)] = torch.tensor(answer)
        begin = mine.stop
    return Batch(tokens, targets, numbers, positions, int((targets != IGNORED).sum()))


def together(rows: Sequence[Batch], preferences: int) -> Batch:
    names = ("tokens_BT", "targets_BT", "documents_BT", "positions_BT")
    columns = (torch.cat([getattr(one, name) for one in rows]) for name in names)
    targets = sum(one.num_targets for one in rows)
    return Batch(*columns, targets, num_preferences=preferences, rows_B=torch.arange(len(rows)))


def answers(seed: int, sizes: Sequence[tuple[int, int]]) -> list[Document]:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(4, 97, (sum(size) + 1,), generator=generator).tolist() for size in sizes]
    return [(one[:prompt], one[prompt:-1], one[-1:]) for one, (prompt, _) in zip(ids, sizes, strict=True)]


CHOSEN, REJECTED = answers(1, [(4, 5), (3, 2), (5, 4)]), answers(2, [(4, 3), (3, 6), (5, 1)])
PAIRS = together([row(CHOSEN, 32), row(REJECTED, 32)], 3)


def log_probs(model: Transformer, documents: Sequence[Document]) -> torch.Tensor:
    """Of each answer, scored alone."""
    found = []
    for prompt, answer, tail in documents:
        ids = torch.tensor([*prompt, *answer, *tail])
        each = model(ids[None, :-1])[0].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        found.append(each[len(prompt) - 1 : len(prompt) - 1 + len(answer)].sum())
    return torch.stack(found)


def objective(loss: str, batch: Batch = PAIRS, **settings: float) -> tuple[Preference, Transformer, Transformer]:
    """The objective, the model and the reference that it knows of."""
    model, reference = build(SHAPE, 7), build(SHAPE, 8)
    config = {"kind": "preference", "preference": {"loss": loss, **settings}}
    made = build_objective(ObjectiveConfig.model_validate(config))
    assert isinstance(made, Preference)
    with torch.no_grad():
        width = int(batch.documents_BT.max()) + 1
        found = Reference(*(answer_sums(reference, one, width).log_probs_BP for one in (batch, mismatched(batch))))
    made.references = (found, found)
    return made, model, reference


class Scored(NamedTuple):
    """What one side's answers come to, [pairs]."""

    log_prob: torch.Tensor
    log_ratio: torch.Tensor
    tokens: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        return self.log_prob / self.tokens


def scored(model: Transformer, reference: Transformer) -> tuple[Scored, Scored]:
    """Chosen and rejected answers, each scored alone."""
    found = []
    for documents in (CHOSEN, REJECTED):
        ours, theirs = log_probs(model, documents), log_probs(reference, documents).detach()
        found.append(Scored(ours, ours - theirs, torch.tensor([len(answer) for _, answer, _ in documents])))
    return found[0], found[1]


def dpo(good: Scored, bad: Scored, smoothing: float = 0.0) -> torch.Tensor:
    margin = 0.3 * (good.log_ratio - bad.log_ratio)
    return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)


def ipo(good: Scored, bad: Scored) -> torch.Tensor:
    return (good.log_ratio / good.tokens - bad.log_ratio / bad.tokens - 1 / (2 * 0.3)) ** 2


def simpo(good: Scored, bad: Scored) -> torch.Tensor:
    return -logsigmoid(0.3 * (good.mean - bad.mean) - 0.8)


def orpo(good: Scored, bad: Scored) -> torch.Tensor:
    odds = [side.mean.exp() / (1 - side.mean.exp()) for side in (good, bad)]
    return -good.mean - 0.3 * torch.sigmoid(torch.log(odds[0]) - torch.log(odds[1])).log()


@pytest.mark.parametrize(
    ("loss", "form", "settings"),
    [
        ("dpo", dpo, {}),
        ("dpo", lambda good, bad: dpo(good, bad, 0.2), {"label_smoothing": 0.2}),
        ("ipo", ipo, {}),
        ("simpo", simpo, {"gamma": 0.8}),
        ("orpo", orpo, {}),
    ],
    ids=["dpo", "dpo smoothed", "ipo", "simpo", "orpo"],
)
def test_a_loss_of_pairs_is_its_closed_form_on_answers_scored_alone(loss, form, settings):
    made, model, reference = objective(loss, beta=0.3, **settings)
    found = made(model, PAIRS)
    expected = form(*scored(model, reference)).sum()
    torch.testing.assert_close(found.nats_sum, expected, rtol=1e-5, atol=1e-5)
    assert found.tokens == 3
    ours, theirs = (torch.autograd.grad(total, list(model.parameters())) for total in (found.nats_sum, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def moved(documents: Sequence[Document]) -> list[Document]:
    """Each prompt with the answer of the document before."""
    return [(prompt, documents[n - 1][1], tail) for n, (prompt, _, tail) in enumerate(documents)]


@pytest.mark.parametrize("nudge", [0.0, 5.0], ids=["below zero", "above zero"])
def test_kto_weighs_each_answer_against_answers_to_other_prompts(nudge):
    made, model, reference = objective("kto", beta=0.3, wanted_weight=2.0, unwanted_weight=0.5)
    assert made.references is not None
    one = made.references[0]
    assert one.mismatched_RP is not None
    made.references = (one._replace(mismatched_RP=one.mismatched_RP - nudge), one)
    good, bad = scored(model, reference)
    others = [*moved(CHOSEN), *moved(REJECTED)]
    point = (log_probs(model, others) - log_probs(reference, others) + nudge).mean().clamp_min(0).detach()
    assert bool(point > 0) == bool(nudge)
    wanted = 1 - torch.sigmoid(0.3 * (good.log_ratio - point))
    unwanted = 1 - torch.sigmoid(0.3 * (point - bad.log_ratio))
    found = made(model, PAIRS)
    torch.testing.assert_close(found.nats_sum, (2.0 * wanted + 0.5 * unwanted).sum() / 2, rtol=1e-5, atol=1e-5)


def test_the_figures_are_sums_over_answers_and_pairs():
    made, model, reference = objective("dpo", beta=0.3)
    good, bad = scored(model, reference)
    gap = good.log_ratio - bad.log_ratio
    found = made(model, PAIRS)
    expected = {
        "chosen_log_prob": good.log_prob, "rejected_log_prob": bad.log_prob, "chosen_reward": 0.3 * good.log_ratio,
        "rejected_reward": 0.3 * bad.log_ratio, "margin": 0.3 * gap, "accuracy": gap > 0, "chosen_tokens": good.tokens,
        "rejected_tokens": bad.tokens, "kl": -good.log_ratio - bad.log_ratio,
    }  # fmt: skip
    assert found.metrics.keys() == expected.keys() == found.counts.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found.metrics[name].float(), value.detach().sum().float(), rtol=1e-5, atol=1e-5)
        assert int(found.counts[name]) == (6 if name == "kl" else 3)


def test_an_evaluation_tells_which_answers_are_likelier_with_and_without_the_reference():
    made, model, reference = objective("dpo")
    good, bad = scored(model, reference)
    with torch.no_grad():
        found = made(model, PAIRS)
    torch.testing.assert_close(found.cross_entropy_sum, -(good.log_prob + bad.log_prob).sum().detach())
    assert found.tokens == PAIRS.num_targets
    assert int(found.metrics["log_prob_accuracy"]) == int((good.log_prob > bad.log_prob).sum())
    assert int(found.metrics["log_ratio_accuracy"]) == int((good.log_ratio > bad.log_ratio).sum())
    torch.testing.assert_close(found.metrics["log_ratio_margin"], (good.log_ratio - bad.log_ratio).sum().detach())


def test_answers_with_a_label_may_be_alone_in_their_rows():
    labelled = together([row(CHOSEN[:1], 32), row([], 32)], 1)
    made, model, reference = objective("kto", labelled, beta=0.3)
    made.paired = False
    ratio = (log_probs(model, CHOSEN[:1]) - log_probs(reference, CHOSEN[:1])).sum()
    found = made(model, labelled)  # there is no other prompt to compare with
    torch.testing.assert_close(found.nats_sum, 1 - torch.sigmoid(0.3 * ratio))
    assert "margin" not in found.metrics


def test_nobody_compares_without_a_reference():
    made, model, _ = objective("dpo")
    made.references = None
    with pytest.raises(UserError, match="compares with a reference"):
        made(model, PAIRS)


def test_odds_of_answers_that_are_nearly_certain_or_impossible_stay_finite():
    config = PreferenceConfig(loss="orpo")
    certain, never, one = torch.tensor([-1e-7]), torch.tensor([-90.0]), torch.ones(1)
    found = pair_losses(config, never, certain, one, one)
    odds = -90.0 - math.log1p(-math.exp(-90)) - (-1e-7 - math.log(1e-7))
    torch.testing.assert_close(found, torch.tensor([90.0 - 0.1 * odds]), rtol=1e-4, atol=0)
    for chosen, rejected in ((0.0, -3.0), (-3.0, 0.0), (0.0, 0.0)):
        both = torch.tensor([[chosen], [rejected]], requires_grad=True)
        found = pair_losses(config, both[0], both[1], one, one)
        found.sum().backward()
        assert bool(found.isfinite().all())
        assert both.grad is not None
        assert bool(both.grad.isfinite().all())


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ({"kind": "next_token", "preference": {"loss": "orpo"}}, "preference has no effect on kind next_token"),
        ({"kind": "preference", "preference": {"loss": "ipo", "label_smoothing": 0.1}}, "has no effect on ipo"),
        ({"kind": "preference", "preference": {"loss": "orpo", "reference": "x"}}, "has no effect on orpo"),
        ({"kind": "preference", "z_loss": 0.1}, "have no effect on kind preference"),
    ],
    ids=["kind", "smoothing", "reference", "z loss"],
)
def test_settings_without_effect_are_refused(content, finding):
    with pytest.raises(ValueError, match=finding):
        ObjectiveConfig.model_validate(content)
