"""What happens to a step that the guard refuses: skip it; after too many in a row rewind, with an autopsy.

A skipped step uses up its rows and its place in the schedule and changes nothing else. A rewind restores the
last regular checkpoint (one at a multiple of `save_every_steps`, with no skips open), and leaves the cursor
where it is, past the offending rows: the rows in between are left out as well, since from the same weights
they would only lead to the same place. The cursor is in the next checkpoint, and until that is written a
resumed run comes to the same rewind again, so a run with skips and rewinds resumes bit for bit too.

The autopsy costs one more forward and backward, and a forward per row, of the last refused step. Several processes
make it together, each over the rows of all, since models in shards need all for every row.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from slm.core.artifact import write_atomically
from slm.core.batch import Batch
from slm.core.console import say
from slm.core.errors import UserError
from slm.shards.loader import read_batch
from slm.train.checkpoint import make_newest, restore, rewind_target
from slm.train.precision import autocast

if TYPE_CHECKING:
    from slm.train.loop import Run
    from slm.train.metrics import Metrics

SHOWN_TOKENS, SHOWN_DOCUMENTS = 24, 4
"""How much of each row an autopsy shows: tokens of a document, documents of a row."""


def refuse(run: Run, batches: list[Batch], reason: str, loss: float, grad_norm: float, metrics: Metrics) -> int:
    """Record the step that was just counted and refused; returns how many steps the run was rewound by, mostly 0.

    A row of kind `skip` goes to the metrics, and one of kind `rewind` where it comes to that.
    """
    state = run.state
    state.optimizer.drop_gradients()
    figures = {"reason": reason, "loss": plain(loss), "grad_norm": plain(grad_norm)}
    rows = {"first_row": state.loader.step_row, "end_row": state.loader.cursor.row}
    state.guard.skip(step=state.step, **figures, **rows)
    metrics.write("skip", state.step, state.tokens, **figures, **rows)
    say(f"train: step {state.step:,} left out ({reason}; rows {rows['first_row']:,} to {rows['end_row'] - 1:,})")
    if not state.guard.must_rewind:
        return 0
    report = json.dumps(autopsy(run, batches), indent=1, ensure_ascii=False) + "\n"
    name = f"autopsy-{state.step:08d}-{len(state.guard.rewinds) + 1}.json"
    run.parallel.world.lead(lambda: write_atomically(run.folder / name, report))
    reached = state.step
    rewind(run, metrics, name)
    return reached - state.step


def rewind(run: Run, metrics: Metrics, autopsy_name: str) -> None:
    """Restore the last regular checkpoint, keeping the cursor and what the guard remembers of the run."""
    state, skips = run.state, run.state.guard.skips
    where = f"{len(skips)} steps in a row were refused up to step {state.step:,} ({skips[-1]['reason']})"
    way_out = "lower train.optimizer.lr or muon_lr, or leave that text out of the corpus"
    run.saver.wait()
    target = run.parallel.world.lead(lambda: rewind_target(run.folder, verify="full"))
    if target is None:
        raise UserError(f"{where} and there is no checkpoint to rewind to; see {run.folder / autopsy_name}: {way_out}")
    step = int(target.counts["step"])
    if step in state.guard.rewinds:
        raise UserError(
            f"{where} and the run had been rewound to step {step:,} once before; see {run.folder / autopsy_name}: "
            f"{way_out}"
        )
    fields = {"to_step": step, "first_row": skips[0]["first_row"], "end_row": skips[-1]["end_row"]}
    metrics.write("rewind", state.step, state.tokens, **fields, autopsy=autopsy_name)
    say(f"train: {where}; rewound to step {step:,}, past row {fields['end_row'] - 1:,}; see {autopsy_name}")
    position, before = state.loader.state_dict(), copy.copy(state.guard)
    restore(target, state)
    state.loader.load_state_dict(position)
    state.guard.rewound(step, before)
    metrics.rewinds = len(state.guard.rewinds)
    run.saver.went_back_to(target)
    run.parallel.world.lead(lambda: make_newest(run.folder, target))


def autopsy(run: Run, batches: list[Batch]) -> dict[str, Any]:
    """What was refused, what it did to each layer, and the texts it was made of, as JSON values.

    Rows are named by their place in the stream and in the shards and by the ids of their documents in the corpus,
    and shown by how these begin. Gradient norms and the loss of each row are those of the last refused step
    (`batches`).
    """
    loader, skips = run.state.loader, run.state.guard.skips
    rows = []
    for skip in skips:
        is_last = skip is skips[-1]
        places = range(skip["first_row"], skip["end_row"])
        for place, index in zip(places, loader.rows_at(places.start, len(places)), strict=True):
            source = next(name for name, numbers in loader.reader.ranges.items() if index in numbers)
            rows.append({"step": skip["step"], "row": place, "shard_row": index, "source": source})
            rows[-1]["documents"] = loader.reader.documents(index)
            rows[-1]["texts"] = _beginnings(run, index)
            if is_last:
                rows[-1]["loss"] = _row_loss(run, index)
    return {"steps": list(skips), "grad_norms": gradient_norms(run, batches), "rows": rows}


def gradient_norms(run: Run, batches: list[Batch]) -> dict[str, float | str]:
    """The norm of the gradient of each parameter on `batches`, unclipped; gradients are dropped again."""
    parallel = run.parallel
    tokens = int(parallel.world.sum(sum(batch.divisor for batch in batches))[0])
    with run.rounding.applied(run.state.model, run.state.tokens):
        model = run.working.refresh()
        for batch in batches:
            with autocast(run.device, run.precision):
                loss = run.objective(model, batch)
            (loss.nats_sum / tokens).backward()  # type: ignore[no-untyped-call]
    parallel.reduce_gradients(run.state.model)
    parameters = run.state.model.named_parameters()
    norms = {name: plain(parallel.norm(p.grad)) for name, p in parameters if p.grad is not None}
    run.state.optimizer.drop_gradients()
    return norms


def plain(value: float) -> float | str:
    """A number that JSON can hold: nan and the infinities by name."""
    return value if math.isfinite(value) else str(value)


def _beginnings(run: Run, index: int) -> list[str]:
    tokens_NT, (lengths,) = run.state.loader.reader.rows([index])
    texts, begin = [], 0
    for length in lengths[:SHOWN_DOCUMENTS].tolist():
        ids = tokens_NT[0, begin : begin + min(length, SHOWN_TOKENS)]
        texts.append(run.tokenizer.decode(ids.tolist()))
        begin += length
    return texts


@torch.no_grad()
def _row_loss(run: Run, index: int) -> float | str:
    reader = run.state.loader.reader
    batch = replace(read_batch(reader, [index]), rows_B=None).to(
        run.device
    )  # which a reference has under held-out rows
    with run.rounding.applied(run.state.model, run.state.tokens), autocast(run.device, run.precision):
        loss = run.objective(run.state.model, batch)
    run.parallel.settle(run.state.model)
    return plain(float(loss.cross_entropy_sum) / max(loss.tokens, 1))
