"""What an objective returns, and what one is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from slm.core.batch import Batch
from slm.model.transformer import Transformer


@dataclass(slots=True)
class Loss:
    """A sum over `tokens` targets. The loop divides once, over all micro-batches and processes.

    `nats_sum` is what is minimised, a scalar with a gradient; `cross_entropy_sum` is the part of it that
    is reported as the loss, in nats; `metrics` are further sums over targets, by name. `nats_by_row`, one number
    for each row of the batch, is there where the batch says of which source its rows are.
    """

    nats_sum: Tensor
    cross_entropy_sum: Tensor
    tokens: int
    metrics: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
    """What a metric is a sum over, by its name, where that is not the targets."""


Objective = Callable[[Transformer, Batch], Loss]
