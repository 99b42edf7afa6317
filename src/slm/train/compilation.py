"""`train.compile`: every block of the model through torch.compile, before the first step.

In: a run that is ready. Out: the same run whose blocks train by compiled code. One function serves all blocks,
compiled for the exact shapes it meets (`dynamic=False`), so what it computes depends on the recipe and never on
what came before: a run that goes on computes the same bits. Both forms that attention takes on a CPU (rows of one
document, and packed rows) are compiled here, in the ledger's phase `compile`, where a signal only sets the
flag: the run leaves when compiling is over, and the next start finds the code in torch's cache. Row lengths of a
curriculum are compiled when they come.

Compiled code rounds otherwise than the modules one by one, so `compile` is part of the recipe. Evaluation,
samples and the forecasts at start (time, memory, micro-batch) run the modules as they are. Cost on two CPU cores:
half a minute once, two seconds from the cache. It fuses what lies between matrix products and keeps less of it for
backward, which is why selective recomputation beside it is refused.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from slm.core.console import duration, say
from slm.core.errors import UserError
from slm.model.block import set_compiled
from slm.train.memory import blank_batch
from slm.train.precision import autocast

if TYPE_CHECKING:
    from slm.train.loop import Run

MOST_SHAPES = 64
"""Versions of one function that torch may compile; past its own limit (8) it would run the rest uncompiled."""


def compile_blocks(run: Run, seq_len: int) -> None:
    """Compile by computing one micro-batch of each form; weights, gradients and random state are left as they were."""
    import torch._dynamo as dynamo

    dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, MOST_SHAPES)
    began, generator = time.perf_counter(), torch.get_rng_state()
    set_compiled(run.working.model)
    with run.ledger.phase("compile"):
        try:
            for documents in (2, 1):
                forward_backward(run, documents, seq_len)
        except dynamo.exc.TorchDynamoException as error:
            if run.stop.signalled:
                run.stop.leave()  # a signal that reached the compiler's own processes as well
            raise UserError(
                f"train.compile is true, but torch cannot compile the blocks here ({_reason(error)}); "
                "install a C++ compiler that works (Debian: apt install g++), or set train.compile=false"
            ) from error
    run.state.model.zero_grad(set_to_none=True)
    torch.set_rng_state(generator)
    say(f"train: blocks compiled in {duration(time.perf_counter() - began)}")


def forward_backward(run: Run, documents: int, seq_len: int) -> None:
    """Compute a micro-batch of rows of so many documents each."""
    batch = blank_batch(run.micro_rows, seq_len)
    batch.documents_BT[:] = torch.arange(seq_len) * documents // seq_len
    with autocast(run.device, run.precision):
        loss = run.objective(run.working.refresh(), batch.to(run.device))
    loss.nats_sum.backward()  # type: ignore[no-untyped-call]


def _reason(error: BaseException) -> str:
    """The first line of what went wrong underneath."""
    inner = getattr(error, "inner_exception", None) or error
    lines = str(inner).strip().splitlines() or [type(inner).__name__]
    return lines[0]
