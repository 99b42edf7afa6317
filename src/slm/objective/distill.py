"""Distillation: the student learns a teacher's distribution of each next token.

In: a model and a `Batch`; the teacher is a checkpoint of ours with the same vocabulary, named by the recipe, whose
forward runs beside the student's on the same device, or over several, the computer's memory and the disk
(`slm.model.spread`); or what `slm.distill` stored of its distributions, which comes with the batch. Out: a `Loss`
summed over the targets (see `divergence`); the reported loss is the student's cross-entropy, as in plain training, so
that both can be compared. Where no gradient is wanted, in evaluations, the teacher is not asked; a batch that brings
nothing stored is learned as text, as where only time or memory is measured. Of what the student has written itself
(`slm.train.on_policy`) it learns the teacher's distributions alone, and the reported loss is how sure it was of its own
words.

What it does not do: teachers of other vocabularies, which are refused before anything is read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from slm.core.artifact import newest_checkpoint
from slm.core.batch import Batch
from slm.model.load import load_model
from slm.model.spread import load_spread
from slm.model.transformer import Transformer
from slm.objective.config import DistillConfig, ObjectiveConfig
from slm.objective.divergence import Against, Divergence, against_teacher, linear_divergence
from slm.objective.loss import Loss, Objective
from slm.objective.next_token import build as build_next_token
from slm.objective.stored import against_stored


def build(config: ObjectiveConfig, teacher: Transformer | None = None) -> Objective:
    """The objective as a function of model and batch; reads the teacher, unless it is given or its words are stored."""
    settings, plain = config.distill, build_next_token(config)
    how = Divergence(settings.divergence, settings.beta, settings.temperature, settings.cross_entropy)
    ask = _store(how) if settings.source == "store" else _asked(teacher or _teacher(settings), settings, how)

    def distill(model: Transformer, batch: Batch) -> Loss:
        against = ask(batch) if torch.is_grad_enabled() else None
        if against is None:
            return plain(model, batch)
        hidden_BTD = model.hidden(
            batch.tokens_BT,
            positions_BT=batch.positions_BT,
            documents_BT=batch.documents_BT,
            dropout=batch.dropout,
        )
        mix = how._replace(cross_entropy=0.0) if batch.own else how
        sums = linear_divergence(hidden_BTD.flatten(0, 1), model.head_weight, batch.targets_BT.flatten(), against, mix)
        metrics = {"divergence": sums.divergence, "teacher_agreement": sums.agreed}
        if settings.on_policy:
            metrics["on_policy"] = torch.tensor(float(batch.num_targets * batch.own))
        return Loss(sums.total, sums.nats, batch.num_targets, metrics)

    return distill


def _teacher(settings: DistillConfig) -> Transformer:
    where, memory = newest_checkpoint(Path(settings.teacher)), settings.teacher_memory_bytes
    return load_spread(where, memory) if memory else load_model(where).eval().requires_grad_(False)


def _asked(teacher: Transformer, settings: DistillConfig, how: Divergence) -> Callable[[Batch], Against]:
    """A teacher in memory, which is asked about each batch on its device, or a spread one, which has its own."""
    memory = settings.teacher_memory_bytes

    @torch.no_grad()
    def ask(batch: Batch) -> Against:
        device = batch.tokens_BT.device
        beside = teacher if memory or teacher.head_weight.device == device else teacher.to(device)
        hidden_BTE = beside.hidden(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)
        return against_teacher(hidden_BTE.flatten(0, 1).to(device), beside.head_weight.to(device), how)

    return ask


def _store(how: Divergence) -> Callable[[Batch], Against | None]:
    """What comes with each batch; None where nothing does."""
    return lambda batch: None if batch.stored is None else against_stored(batch.stored, how)
