"""The objective against the same sums by hand; a teacher learns nothing and is not asked where nobody learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from slm.model.load import save_model
from slm.model.transformer import build
from slm.objective import build as build_objective
from slm.objective.config import ObjectiveConfig
from slm.objective.distill import load_model
from tests.objective.test_next_token import SHAPE, packed


@pytest.fixture
def config(tmp_path: Path) -> ObjectiveConfig:
    save_model(build(SHAPE, 3), tmp_path / "teacher")
    settings = {"teacher": str(tmp_path / "teacher"), "temperature": 2.0, "cross_entropy": 0.25}
    return ObjectiveConfig.model_validate({"kind": "distill", "distill": settings})


def test_the_loss_is_the_mix_over_the_targets_of_packed_rows(config: ObjectiveConfig) -> None:
    student, teacher = build(SHAPE, 7), load_model(Path(config.distill.teacher))
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(4, 97, (length,), generator=generator) for length in (9, 2, 14)]
    loss = build_objective(config)(student, packed(documents, 32))
    nats = distance = torch.zeros(())
    for document in documents:
        ours, theirs = student(document[None, :-1])[0], teacher(document[None, :-1])[0].detach()
        nats = nats + torch.nn.functional.cross_entropy(ours, document[1:], reduction="sum")
        log_q, p = (ours / 2).log_softmax(-1), (theirs / 2).softmax(-1)
        distance = distance + (p * (p.log() - log_q)).sum()
    torch.testing.assert_close(loss.nats_sum, 0.25 * nats + 0.75 * 4 * distance)
    torch.testing.assert_close(loss.cross_entropy_sum, nats.detach())
    torch.testing.assert_close(loss.metrics["divergence"], distance.detach())
    assert loss.tokens == 8 + 1 + 13


def test_where_nobody_learns_it_is_the_text_alone(config: ObjectiveConfig) -> None:
    student, batch = build(SHAPE, 7), packed([torch.arange(4, 30)], 32)
    with torch.no_grad():
        found, plain = build_objective(config)(student, batch), build_objective(ObjectiveConfig())(student, batch)
    assert torch.equal(found.nats_sum, plain.nats_sum)
    assert not found.metrics
