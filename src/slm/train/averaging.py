"""An exponential moving average of the weights (EMA), as a second model.

In: the model after each step. Out: a model of the same shape that trails it. It is what is evaluated and
sampled, and what a checkpoint publishes as its model, so evaluate, export and serve use it without knowing;
the weights that training goes on from lie beside it. Early on the decay is (1 + step) / (10 + step), so that
the random start is forgotten at once. It costs one more copy of the weights and one pass over them a step;
where the model is in shards, so is its average.
"""

from __future__ import annotations

import copy

import torch

from slm.model.transformer import Transformer
from slm.train.parallel import local


def average_of(model: Transformer) -> Transformer:
    """The average at its beginning: a copy of `model` that takes no gradients."""
    return copy.deepcopy(model).requires_grad_(False)


@torch.no_grad()
def follow(average: Transformer, model: Transformer, decay: float, step: int) -> None:
    """Move `average` towards `model`, whose step `step` was just taken."""
    share = 1.0 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(local(average.parameters()), local(model.parameters()), share)
