"""`train.micro_batch_rows=auto`: the number of rows in one forward and backward, chosen for the device.

In: the rows of a step, model, data, device. Out: a divisor of those rows, so that the global batch stays
exact. On a GPU the largest whose predicted memory fits into what is free; on a CPU, where small batches stay
in cache, the fastest of three that fit, each timed once after a warm-up. Results of different choices agree
to rounding; for bit-exactness a run that goes on keeps the choice of its checkpoint.
"""

from __future__ import annotations

import os
import time

import torch

from slm.core.artifact import Artifact
from slm.core.console import say
from slm.core.distributed import World
from slm.core.errors import UserError
from slm.model.transformer import Transformer
from slm.objective.loss import Objective
from slm.recipe import Recipe
from slm.shards.loader import read_batch
from slm.shards.preferences import TOGETHER
from slm.shards.reader import ShardReader
from slm.train.memory import HEADROOM, divisors, largest_that_fits, predict_for
from slm.train.parallel import Parallel
from slm.train.precision import Precision, autocast
from slm.train.working_copy import working_copy

CPU_TOKENS = (2048, 8192, 32768)
"""Sizes that are timed on a CPU, in tokens; the nearest divisor of the step is taken."""


def choose_micro_batch(
    recipe: Recipe,
    rows: int,
    model: Transformer,
    objective: Objective,
    device: str,
    precision: Precision,
    checkpoint: Artifact | None,
    parallel: Parallel,
) -> int:
    """Rows of a micro-batch where each process has `rows` of a step: the recipe's number, the checkpoint's, or new."""
    asked = recipe.train.micro_batch_rows
    if not isinstance(asked, str):
        return asked
    if checkpoint is not None and rows % checkpoint.counts["micro_batch_rows"] == 0:
        return int(checkpoint.counts["micro_batch_rows"])
    reader = ShardReader(recipe.artifact("shards"), "train")
    whole = [n for n in divisors(rows) if not (reader.preferences and n % TOGETHER)]
    near = sorted({min(whole, key=lambda n: abs(n * recipe.shards.seq_len - tokens)) for tokens in CPU_TOKENS})
    candidates = whole if device == "cuda" else sorted({whole[0], *near})
    free = _free_bytes(device, parallel.world) * HEADROOM
    largest = largest_that_fits(candidates, lambda micro: _peak(recipe, device, precision, micro, rows, parallel), free)
    if not largest:
        raise UserError(
            f"train.micro_batch_rows is auto, but not even one row of {recipe.shards.seq_len:,} tokens fits into the "
            f"{free / 1e9:.1f} GB that are free; lower shards.seq_len or take a smaller model"
        )
    if device == "cuda":
        say(f"train: micro-batches of {largest} rows, the largest that fits (of {rows} rows a step)")
        return largest
    sizes = [n for n in near if n <= largest] or [largest]
    timed = {n: _seconds_per_row(reader, n, model, objective, precision) for n in sizes}
    best = min(timed, key=lambda n: timed[n])
    tried = ", ".join(f"{n} rows {seconds * 1000:.1f} ms a row" for n, seconds in timed.items())
    say(f"train: micro-batches of {best} rows, the fastest here ({tried})")
    return best


def _peak(recipe: Recipe, device: str, precision: Precision, micro: int, rows: int, parallel: Parallel) -> int:
    return predict_for(recipe, device, precision, micro, rows, parallel).total


def _free_bytes(device: str, world: World) -> int:
    """What a step may take in each process; weights that already lie on the GPU are part of the step."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_allocated()
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // world.local_size


def _seconds_per_row(
    reader: ShardReader, micro: int, model: Transformer, objective: Objective, precision: Precision
) -> float:
    rows = [row % reader.num_rows for row in range(micro)]
    batch = read_batch(reader, rows)
    seconds, working = [], working_copy(model, precision).model
    for _ in range(2):
        began = time.perf_counter()
        with autocast("cpu", precision):
            loss = objective(working, batch)
        loss.nats_sum.backward()  # type: ignore[no-untyped-call]
        seconds.append(time.perf_counter() - began)
    model.zero_grad(set_to_none=True)
    return min(seconds) / micro
