"""Preferences: of two answers to a prompt the chosen one becomes likelier than the rejected one (DPO and its kin).

In: a model and a `Batch` whose rows 2k hold chosen (or wanted) answers and rows 2k + 1 rejected (or unwanted) ones,
pairs under the same number in both. Out: a `Loss` summed over the preferences; the reported loss is the mean of the
recipe's own, the metrics are means over answers or pairs: log-probabilities in nats, rewards (beta times what the loss
compares), margin, accuracy, the KL estimate, tokens. Only the last answer's tokens count.

Losses are those of the papers in `PreferenceConfig`; as in TRL, and by word of its authors, IPO takes log-ratios per
token. ORPO adds the chosen answer's negative log-likelihood per token, each pair alike. KTO's reference point is the
mean log-ratio, at least 0, of the mismatched answers in a pair of rows (see `mismatched`), so that it depends on
neither micro-batch nor processes; it costs a second forward.

`kl` is the mean of log reference - log model over the answers: KL(reference | model) as far as they are the reference's
own. Where no gradient is wanted, in evaluations, the loss is the cross-entropy of all answers, and the metrics tell how
often the chosen answer is the likelier one, with and without regard to the reference (without, where the batch does not
say which rows it holds).

Shapes: B rows of T tokens, P documents in the fullest row, G = B / 2 groups of rows, K preferences.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from slm.core.batch import IGNORED, Batch
from slm.core.errors import UserError
from slm.model.transformer import Transformer
from slm.objective.config import COMPARING, ObjectiveConfig, PreferenceConfig
from slm.objective.linear_log_probs import linear_log_probs
from slm.objective.loss import Loss
from slm.objective.mismatched import mismatched


class Reference(NamedTuple):
    """Log-probabilities that the reference gives to the answers in the rows of a split, [R, P]."""

    answers_RP: Tensor
    mismatched_RP: Tensor | None = None


class Sums(NamedTuple):
    """Of each answer its log-probability and its tokens; 0 tokens where a row has no such document. [B, P]"""

    log_probs_BP: Tensor
    tokens_BP: Tensor


class Figures:
    """Sums by name, and what they are sums over."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, which: Tensor) -> None:
        """One figure, over those entries of `values` that `which` names."""
        self.sums[name], self.counts[name] = (values * which).sum(), which.sum()

    def add_pairs(self, prefix: str, values_BP: Tensor, tokens_BP: Tensor) -> None:
        """By how much chosen answers are ahead, and how often."""
        there_GP = (tokens_BP[0::2] > 0) & (tokens_BP[1::2] > 0)
        ahead_GP = values_BP[0::2] - values_BP[1::2]
        self.add(f"{prefix}margin", ahead_GP, there_GP)
        self.add(f"{prefix}accuracy", ahead_GP > 0, there_GP)


def build(config: ObjectiveConfig) -> Preference:
    """The objective as a function of model and batch; `references` have to be given to it where the loss compares."""
    return Preference(config.preference)


class Preference:
    """The objective, and what the reference says."""

    def __init__(self, config: PreferenceConfig) -> None:
        self._config = config
        self.references: tuple[Reference, Reference] | None = None
        """Of the rows trained on and of those held out."""
        self.paired = True
        """Whether answers come in pairs; those with a label have no margin."""

    def __call__(self, model: Transformer, batch: Batch) -> Loss:
        """The loss of a batch; without gradients what an evaluation wants to know."""
        reference = None if self.references is None else self.references[not torch.is_grad_enabled()]
        if reference is None and self._config.loss in COMPARING and torch.is_grad_enabled():
            raise UserError(
                f"objective.preference.loss={self._config.loss} compares with a reference, which only slm train reads; "
                "take orpo or simpo here"
            )
        width = max(1, int(batch.documents_BT.max()) + 1)
        found = answer_sums(model, batch, width)
        if batch.rows_B is None and not torch.is_grad_enabled():
            reference = None
        theirs_BP = None if reference is None else _of_rows(reference.answers_RP, batch, width)
        if not torch.is_grad_enabled():
            return self._evaluated(found, theirs_BP, batch)
        compared_BP = found.log_probs_BP
        if theirs_BP is not None and self._config.loss in COMPARING:
            compared_BP = compared_BP - theirs_BP
        if self._config.loss == "kto":
            assert reference is not None
            assert reference.mismatched_RP is not None
            point_G = _reference_point(model, batch, _of_rows(reference.mismatched_RP, batch, width))
            losses = kto_losses(self._config, compared_BP, found.tokens_BP > 0, point_G)
            answers = int((found.tokens_BP > 0).sum())
            total = losses * (batch.num_preferences / max(answers, 1))  # a pair's loss is the mean of its answers'
        else:
            chosen, rejected = (sums[found.tokens_BP[0::2] > 0] for sums in (compared_BP[0::2], compared_BP[1::2]))
            tokens = [own[found.tokens_BP[0::2] > 0] for own in (found.tokens_BP[0::2], found.tokens_BP[1::2])]
            total = pair_losses(self._config, chosen, rejected, *tokens).sum()
        figures = self._figures(found, compared_BP.detach(), theirs_BP)
        if batch.sources_B is not None:
            figures.sums["nats_by_row"] = -found.log_probs_BP.detach().sum(1)
        return Loss(total, total.detach(), batch.num_preferences, figures.sums, figures.counts)

    def _figures(self, found: Sums, compared_BP: Tensor, theirs_BP: Tensor | None) -> Figures:
        log_probs_BP, tokens_BP = found.log_probs_BP.detach(), found.tokens_BP
        whole = self._config.loss in ("dpo", "kto")
        rewards_BP = self._config.beta * (compared_BP if whole else compared_BP / tokens_BP.clamp_min(1))
        figures = Figures()
        for name, values_BP in (("log_prob", log_probs_BP), ("reward", rewards_BP), ("tokens", tokens_BP)):
            for side, which in enumerate(("chosen", "rejected")):
                figures.add(f"{which}_{name}", values_BP[side::2], tokens_BP[side::2] > 0)
        if self.paired:
            figures.add_pairs("", rewards_BP, tokens_BP)
        if theirs_BP is not None:
            figures.add("kl", theirs_BP - log_probs_BP, tokens_BP > 0)
        return figures

    def _evaluated(self, found: Sums, theirs_BP: Tensor | None, batch: Batch) -> Loss:
        """Cross-entropy of all answers; how often chosen ones are likelier, as they are and beside the reference."""
        nats, figures = -found.log_probs_BP.sum(), Figures()
        if self.paired:
            figures.add_pairs("log_prob_", found.log_probs_BP, found.tokens_BP)
            if theirs_BP is not None:
                figures.add_pairs("log_ratio_", found.log_probs_BP - theirs_BP, found.tokens_BP)
        return Loss(nats, nats, batch.num_targets, figures.sums, figures.counts)


def answer_sums(model: Transformer, batch: Batch, width: int) -> Sums:
    """Of each document in each row the log-probability of its targets, summed, and their number; `width` is P."""
    hidden_BTD = model.hidden(
        batch.tokens_BT,
        positions_BT=batch.positions_BT,
        documents_BT=batch.documents_BT,
        dropout=batch.dropout,
    )
    log_probs_N = linear_log_probs(hidden_BTD.flatten(0, 1), model.head_weight, batch.targets_BT.flatten())
    member_BTP = batch.documents_BT[..., None] == torch.arange(width, device=log_probs_N.device)
    counted_BTP = member_BTP & (batch.targets_BT != IGNORED)[..., None]
    return Sums((log_probs_N.view(batch.targets_BT.shape)[..., None] * member_BTP).sum(1), counted_BTP.sum(1))


def pair_losses(
    config: PreferenceConfig, chosen_K: Tensor, rejected_K: Tensor, chosen_tokens_K: Tensor, rejected_tokens_K: Tensor
) -> Tensor:
    """The loss of each pair, from log-ratios of whole answers (dpo, ipo) or their log-probabilities (orpo, simpo)."""
    if config.loss == "dpo":
        return _smoothed(config.beta * (chosen_K - rejected_K), config.label_smoothing)
    chosen_K, rejected_K = chosen_K / chosen_tokens_K, rejected_K / rejected_tokens_K
    if config.loss == "ipo":
        return (chosen_K - rejected_K - 1 / (2 * config.beta)).square()
    if config.loss == "simpo":
        return _smoothed(config.beta * (chosen_K - rejected_K) - config.gamma, config.label_smoothing)
    log_odds_K = chosen_K - rejected_K - (_log_rest(chosen_K) - _log_rest(rejected_K))
    return -chosen_K - config.beta * logsigmoid(log_odds_K)


def kto_losses(config: PreferenceConfig, ratios_BP: Tensor, there_BP: Tensor, point_G: Tensor) -> Tensor:
    """The sum over all answers that are there, from their log-ratios and the reference point of each group of rows."""
    losses_GP = (
        config.wanted_weight * (1 - torch.sigmoid(config.beta * (ratios_BP[0::2] - point_G[:, None]))),
        config.unwanted_weight * (1 - torch.sigmoid(config.beta * (point_G[:, None] - ratios_BP[1::2]))),
    )
    return sum((own * there_BP[side::2]).sum() for side, own in enumerate(losses_GP))  # type: ignore[return-value]


def _smoothed(margin_K: Tensor, smoothing: float) -> Tensor:
    return -logsigmoid(margin_K) * (1 - smoothing) - logsigmoid(-margin_K) * smoothing


CERTAIN = -1e-7
"""The logarithm of the largest probability that odds are taken of."""


def _log_rest(log_prob_K: Tensor) -> Tensor:
    """log(1 - p) from log p; for p near 1 and near 0 without loss of digits (Maechler 2012).

    p is held below 1, which answers reach whose every token is certain in float32: its gradient is nothing there.
    """
    log_prob_K = log_prob_K.clamp_max(CERTAIN)
    near_one = log_prob_K > -math.log(2)
    safe = torch.where(near_one, log_prob_K, -1.0)
    return torch.where(near_one, torch.log(-torch.expm1(safe)), torch.log1p(-log_prob_K.exp()))


@torch.no_grad()
def _reference_point(model: Transformer, batch: Batch, theirs_BP: Tensor) -> Tensor:
    """For each group of rows the mean log-ratio of answers to other prompts, at least 0."""
    other = answer_sums(model, mismatched(batch), theirs_BP.shape[1])
    there_G = (other.tokens_BP > 0).view(len(theirs_BP) // 2, -1)
    ratios_G = (other.log_probs_BP - theirs_BP).view(there_G.shape)
    return ((ratios_G * there_G).sum(1) / there_G.sum(1).clamp_min(1)).clamp_min(0)


def _of_rows(table_RP: Tensor, batch: Batch, width: int) -> Tensor:
    """What the table says of the documents in the batch's rows; [B, P]."""
    assert batch.rows_B is not None
    return table_RP[batch.rows_B.to(table_RP.device)][:, :width].to(batch.tokens_BT.device)
