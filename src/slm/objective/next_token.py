"""Next-token cross-entropy over packed documents, with optional label smoothing and z-loss.

In: a model and a `Batch`. Out: a `Loss` summed over the targets; the last token of each document, padding
and the row's end have none.
"""

from __future__ import annotations

from slm.core.batch import Batch
from slm.model.transformer import Transformer
from slm.objective.config import ObjectiveConfig
from slm.objective.linear_cross_entropy import linear_cross_entropy
from slm.objective.loss import Loss, Objective


def build(config: ObjectiveConfig) -> Objective:
    """The objective as a function of model and batch."""

    def next_token(model: Transformer, batch: Batch) -> Loss:
        hidden_BTD = model.hidden(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)
        total, nats = linear_cross_entropy(
            hidden_BTD.flatten(0, 1),
            model.head_weight,
            batch.targets_BT.flatten(),
            z_loss=config.z_loss,
            label_smoothing=config.label_smoothing,
        )
        return Loss(total, nats, batch.num_targets)

    return next_token
