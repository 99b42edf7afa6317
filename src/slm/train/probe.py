"""One micro-batch before the first step: how long a step will take, and what computes the blocks.

In: a wired run. Out: a `Probe`; weights, gradients and cursor are left as they were. Whether blocks are fused is read
off the graph that autograd recorded, so what is printed is what happened. It costs two forwards and backwards.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from slm.model.fused import GRAPH_NODE
from slm.train.dropout import thin
from slm.train.precision import autocast

if TYPE_CHECKING:
    from slm.recipe import Recipe
    from slm.train.loop import Run


@dataclass(frozen=True, slots=True)
class Probe:
    """What one micro-batch showed."""

    step_seconds: float
    """Seconds that one full step will take."""
    fused: bool
    """Whether each block was one step of autograd (`slm.model.fused`)."""


def probe(run: Run, recipe: Recipe) -> Probe:
    """Measure one micro-batch after one that warms up."""
    loader = run.state.loader
    cursor = loader.state_dict()
    batches = [batch.to(run.device) for batch in loader.step()]
    loader.load_state_dict(cursor)
    thin(batches, recipe, run.state.step, run.state.tokens / run.facts.tokens, run.parallel.world)
    seconds, fused = 0.0, False
    for _ in range(2):
        began = time.perf_counter()
        with autocast(run.device, run.precision):
            loss = run.objective(run.working.refresh(), batches[0])
        fused = recorded(loss.nats_sum, GRAPH_NODE)
        loss.nats_sum.backward()  # type: ignore[no-untyped-call]
        if run.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    run.state.model.zero_grad(set_to_none=True)
    return Probe(seconds * len(batches), fused)


def recorded(result: Tensor, name: str) -> bool:
    """Whether autograd took a step called `name` on the way to `result`."""
    waiting, seen = [result.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == name:
            return True
        seen.add(node)
        waiting.extend(following for following, _ in node.next_functions)
    return False
