"""Next-token cross-entropy over packed documents, with optional label smoothing and z-loss.

In: a model and a `Batch`. Out: a `Loss` summed over the targets; the last token of each document, padding
and the row's end have none.
"""

from __future__ import annotations

import torch

from slm.core.batch import Batch
from slm.model.transformer import Transformer
from slm.objective.config import ObjectiveConfig
from slm.objective.linear_cross_entropy import linear_cross_entropy
from slm.objective.loss import Loss, Objective


def build(config: ObjectiveConfig) -> Objective:
    """The objective as a function of model and batch."""

    def next_token(model: Transformer, batch: Batch) -> Loss:
        hidden_BTD = model.hidden(
            batch.tokens_BT,
            positions_BT=batch.positions_BT,
            documents_BT=batch.documents_BT,
            dropout=batch.dropout,
        )
        tells_rows = batch.sources_B is not None
        nats_BT = torch.empty(batch.targets_BT.shape, device=hidden_BTD.device) if tells_rows else None
        total, nats = linear_cross_entropy(
            hidden_BTD.flatten(0, 1),
            model.head_weight,
            batch.targets_BT.flatten(),
            z_loss=config.z_loss,
            label_smoothing=config.label_smoothing,
            nats_N=None if nats_BT is None else nats_BT.view(-1),
        )
        return Loss(total, nats, batch.num_targets, {} if nats_BT is None else {"nats_by_row": nats_BT.sum(1)})

    return next_token
