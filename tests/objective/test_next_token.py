"""Next-token loss over packed documents against each document alone."""

from __future__ import annotations

import torch
from torch.nn import functional

from slm.core.batch import IGNORED, Batch
from slm.model.config import ModelConfig
from slm.model.transformer import build
from slm.objective import OBJECTIVES, linear_cross_entropy
from slm.objective import build as build_objective
from slm.objective.config import ObjectiveConfig
from tests.operations import Operations

SHAPE = ModelConfig(vocab_size=97, width=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn_width=64, max_seq_len=32)


def packed(documents: list[torch.Tensor], seq_len: int) -> Batch:
    tokens = torch.full((1, seq_len), 3)
    targets = torch.full((1, seq_len), IGNORED)
    numbers = torch.full((1, seq_len), -1, dtype=torch.int32)
    positions = torch.zeros((1, seq_len), dtype=torch.int64)
    begin = 0
    for number, document in enumerate(documents):
        end = begin + len(document)
        tokens[0, begin:end] = document
        targets[0, begin : end - 1] = document[1:]
        numbers[0, begin:end] = number
        positions[0, begin:end] = torch.arange(len(document))
        begin = end
    return Batch(tokens, targets, numbers, positions, int((targets != IGNORED).sum()))


def test_packed_loss_is_the_sum_over_documents_scored_alone():
    model = build(SHAPE, 7)
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(4, 97, (length,), generator=generator) for length in (9, 2, 14)]
    loss = build_objective(ObjectiveConfig())(model, packed(documents, 32))
    alone = sum(
        functional.cross_entropy(model(document[None, :-1])[0], document[1:], reduction="sum") for document in documents
    )
    assert loss.tokens == 8 + 1 + 13
    torch.testing.assert_close(loss.nats_sum, alone)
    torch.testing.assert_close(loss.cross_entropy_sum, alone.detach())


def test_z_loss_is_minimised_but_not_reported_as_loss():
    model = build(SHAPE, 7)
    batch = packed([torch.arange(4, 30)], 32)
    plain = build_objective(ObjectiveConfig())(model, batch)
    pulled = build_objective(ObjectiveConfig(z_loss=0.1))(model, batch)
    assert pulled.nats_sum > plain.nats_sum
    torch.testing.assert_close(pulled.cross_entropy_sum, plain.cross_entropy_sum)


def test_a_training_step_never_holds_the_logits_of_all_rows(monkeypatch):
    """Of a whole model, where the head is one user of the embedding; with all rows in one chunk it does."""
    model = build(SHAPE.model_copy(update={"vocab_size": 601}), 7)
    row = packed([torch.arange(4, 30)], 32)
    names = ("tokens_BT", "targets_BT", "documents_BT", "positions_BT")
    batch = Batch(*(getattr(row, name).repeat(4, 1) for name in names), 4 * row.num_targets)
    held = {}
    for chunk in (16, 10**9):
        monkeypatch.setattr(linear_cross_entropy, "CHUNK_ROWS", chunk)
        with Operations() as seen:
            build_objective(ObjectiveConfig(z_loss=0.1))(model, batch).nats_sum.backward()
        held[chunk] = seen.largest
    assert held[16] < 4 * 32 * 601 <= held[10**9]


def test_every_kind_of_objective_has_a_module():
    kinds = ObjectiveConfig.model_fields["kind"].annotation.__args__
    assert set(kinds) == set(OBJECTIVES)
