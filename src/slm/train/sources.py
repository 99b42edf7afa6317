"""The training loss of each source, and shares of the stream that follow it.

In: the batches of a step and what the objective made of them; where the shards hold two sources or more. Out:
nats per target by source, for the log; and, where the recipe asks for it, new shares every few steps.

Shares are a function of a moving average of each source's loss: those of the start times
exp(strength x (loss - floor)), scaled to a sum of 1, above `min_share`. The softmax of averaged losses over a
floor of exploration follows ODM (Albalak et al., arXiv 2312.02406), measuring the loss in excess of what a
reference reaches DoReMi (Xie et al., arXiv 2305.10429). Unlike in both nothing piles up: equal losses give the
shares of the start. A source that cannot be learned keeps a high loss and so a high share; its `floors` entry,
such as the loss of an earlier small run on it, takes that away.

The averages are in the checkpoint and the shares, with the row that each began at, in the loader's state, so a
run resumes bit for bit. Losses are summed over processes and looked at in thousandths of a nat, so another
number of processes comes to the same shares unless rounding falls on a border. Adding up costs 50 us a micro-batch.

Shapes: B rows, S sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from slm.core.artifact import Artifact
from slm.core.batch import IGNORED, Batch
from slm.core.distributed import World
from slm.core.errors import UserError
from slm.objective.loss import Loss
from slm.shards.mixture import resolve, stages_of
from slm.train.config import SourceSamplingConfig


class SourceLosses:
    """Adds up nats and targets by source over the micro-batches of a step; with one source it does nothing."""

    def __init__(self, names: Sequence[str], device: str) -> None:
        self._names = names
        self._sums_2S = torch.zeros(2, len(names), dtype=torch.float64, device=device)

    def add(self, batch: Batch, loss: Loss) -> None:
        """Count one micro-batch; an objective that does not tell rows apart leaves nothing to count."""
        nats_B = loss.metrics.get("nats_by_row")
        if batch.sources_B is None or nats_B is None:
            return
        targets_B = (batch.targets_BT != IGNORED).sum(1)
        rows_2B = torch.stack([nats_B.double(), targets_B.double()])
        member_BS = batch.sources_B[:, None] == torch.arange(len(self._names), device=rows_2B.device)
        self._sums_2S += rows_2B @ member_BS.double()  # a product, whose order of addition is fixed on a GPU too

    def finish(self, world: World) -> dict[str, float]:
        """Nats per target of each source in the step, over all processes; sources without a target are left out."""
        if len(self._names) < 2:
            return {}
        sums = world.sum(*self._sums_2S.flatten().tolist())
        self._sums_2S.zero_()
        nats, targets = sums[: len(self._names)], sums[len(self._names) :]
        return {name: n / t for name, n, t in zip(self._names, nats, targets, strict=True) if t}


class SourceSampler:
    """Moving averages of the losses, and the shares that follow from them."""

    def __init__(self, config: SourceSamplingConfig, start: Mapping[str, float]) -> None:
        self._config, self._start = config, start
        self._losses: dict[str, float] = {}

    def observe(self, losses: Mapping[str, float]) -> None:
        """Take in the losses of a step that changed the weights."""
        keep = self._config.ema_decay
        for name, loss in losses.items():
            self._losses[name] = keep * self._losses.get(name, loss) + (1.0 - keep) * loss

    def shares(self) -> dict[str, float]:
        """The share of each source from now on; together 1, each at least `min_share`."""
        config = self._config
        known = {name: round(loss - config.floors.get(name, 0.0), 3) for name, loss in self._losses.items()}
        typical = sum(known.values()) / len(known) if known else 0.0
        excess = {name: config.strength * known.get(name, typical) for name in self._start}
        top = max(excess.values())
        pulls = {name: share * math.exp(excess[name] - top) for name, share in self._start.items()}
        free = (1.0 - len(pulls) * config.min_share) / sum(pulls.values())
        return {name: config.min_share + free * pull for name, pull in pulls.items()}

    def state_dict(self) -> dict[str, Any]:
        """The averages, as JSON values."""
        return {"losses": dict(self._losses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._losses = dict(state["losses"])


def sampler_for(config: SourceSamplingConfig, shards: Artifact) -> SourceSampler | None:
    """The sampler that the recipe asks for, starting at the shards' mixture, or at the rows that each source has."""
    if not config.every_steps:
        return None
    rows = {name: tally["rows"] for name, tally in shards.counts["sources"].items()}
    if len(rows) < 2:
        raise UserError(
            f"train.source_sampling.every_steps ({config.every_steps}) needs shards of at least two sources, but "
            f"{shards.path} holds only {', '.join(rows)}; set it to 0, or add a source to the corpus"
        )
    for name in config.floors:
        if name not in rows:
            raise UserError(
                f"train.source_sampling.floors.{name} must name a source of the shards ({', '.join(rows)}); correct it"
            )
    if config.min_share * len(rows) > 1:
        raise UserError(
            f"train.source_sampling.min_share ({config.min_share:g}) x {len(rows)} sources must not exceed 1; "
            f"lower it to at most {1 / len(rows):.3g}"
        )
    stages = stages_of(shards)
    if len(stages) > 1:
        raise UserError(
            f"train.source_sampling.every_steps ({config.every_steps}) and the {len(stages)} stages of shards.mixture "
            "would both set the shares; set it to 0, or give the mixture one stage"
        )
    weights = resolve(stages[0], rows, shards.counts["seq_len"])[0] if stages else {**rows}
    if missing := [name for name in rows if name not in weights]:
        raise UserError(
            f"train.source_sampling.every_steps ({config.every_steps}) sets the share of every source, but "
            f"shards.mixture leaves out {', '.join(missing)}; give it a weight, or leave it out of the corpus"
        )
    total = sum(weights.values())
    return SourceSampler(config, {name: weights[name] / total for name in rows})
