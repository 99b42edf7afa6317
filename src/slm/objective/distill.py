"""Distillation from a teacher in memory: the student learns the teacher's distribution of each next token.

In: a model and a `Batch`; the teacher is a checkpoint of ours with the same vocabulary, named by the recipe, whose
forward runs beside the student's on the same device. Out: a `Loss` summed over the targets (see `divergence`); the
reported loss is the student's cross-entropy, as in plain training, so that both can be compared. Where no gradient is
wanted, in evaluations, the teacher is not asked. Of what the student has written itself (`slm.train.on_policy`) it
learns the teacher's distributions alone, and the reported loss is how sure it was of its own words.

What it does not do: teachers of other vocabularies, which are refused before anything is read; stored distributions.
"""

from __future__ import annotations

from pathlib import Path

import torch

from slm.core.artifact import newest_checkpoint
from slm.core.batch import Batch
from slm.model.load import load_model
from slm.model.transformer import Transformer
from slm.objective.config import ObjectiveConfig
from slm.objective.divergence import Divergence, linear_divergence
from slm.objective.loss import Loss, Objective
from slm.objective.next_token import build as build_next_token


def build(config: ObjectiveConfig) -> Objective:
    """The objective as a function of model and batch; reads the teacher."""
    settings, plain = config.distill, build_next_token(config)
    how = Divergence(settings.divergence, settings.beta, settings.temperature, settings.cross_entropy)
    teacher = load_model(newest_checkpoint(Path(settings.teacher))).eval().requires_grad_(False)

    def distill(model: Transformer, batch: Batch) -> Loss:
        if not torch.is_grad_enabled():
            return plain(model, batch)
        hidden_BTD = model.hidden(
            batch.tokens_BT,
            positions_BT=batch.positions_BT,
            documents_BT=batch.documents_BT,
            dropout=batch.dropout,
        )
        with torch.no_grad():
            theirs_BTE = teacher.to(hidden_BTD.device).hidden(
                batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT
            )
        sums = linear_divergence(
            hidden_BTD.flatten(0, 1), model.head_weight, theirs_BTE.flatten(0, 1), teacher.head_weight,
            batch.targets_BT.flatten(), how._replace(cross_entropy=0.0) if batch.own else how,
        )  # fmt: skip
        metrics = {"divergence": sums.divergence, "teacher_agreement": sums.agreed}
        if settings.on_policy:
            metrics["on_policy"] = torch.tensor(float(batch.num_targets * batch.own))
        return Loss(sums.total, sums.nats, batch.num_targets, metrics)

    return distill
