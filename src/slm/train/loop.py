"""The loop. Everything optional is a visible `if due(...)`, in order; saving comes before evaluating.

Position is the loader's global cursor, the learning rate is a function of tokens seen, and the state holds
everything else that shapes the next step. So a run that was killed anywhere and started again computes
exactly what the unbroken run does (same machine, same number of threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

from slm.core.artifact import Artifact, Spec
from slm.core.batch import Batch
from slm.core.console import Progress, say
from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.model.transformer import Transformer, build
from slm.objective import build as build_objective
from slm.objective.loss import Objective
from slm.recipe import Recipe
from slm.shards.loader import Loader, collate
from slm.shards.reader import ShardReader
from slm.tokenizer import Tokenizer
from slm.train.averaging import average_of, follow
from slm.train.checkpoint import TrainState, newest_sound, restore, save
from slm.train.config import TrainConfig
from slm.train.guard import Guard
from slm.train.ledger import Ledger, print_ledger
from slm.train.metrics import Metrics
from slm.train.micro_batch import choose_micro_batch
from slm.train.optim import Optimizer
from slm.train.parametrization import rescale
from slm.train.plan import Plan, announce, plan
from slm.train.precision import Precision, autocast, resolve_device, resolve_precision
from slm.train.profile import profiled
from slm.train.recovery import plain, refuse
from slm.train.samples import continuation
from slm.train.schedule import lr_share
from slm.train.speed import Meter, rates_text
from slm.train.stop import StopRequest, stop_request


@dataclass(slots=True)
class Run:
    """What the loop works with, wired once in `prepare`."""

    folder: Path
    spec: Spec
    facts: Plan
    device: str
    precision: Precision
    state: TrainState
    objective: Objective
    evaluator: Evaluator
    tokenizer: Tokenizer
    checkpoint: Artifact | None
    """The newest checkpoint, at first the one that the run goes on from."""
    stop: StopRequest
    meter: Meter
    ledger: Ledger
    micro_rows: int
    loss: float = math.nan
    """Of the last step."""


def train(recipe: Recipe, spec: Spec, began: float | None = None) -> Artifact:
    """Train from the newest sound checkpoint, or from nothing, to the recipe's last token."""
    config, ledger = recipe.train, Ledger(began or time.perf_counter())
    run = prepare(recipe, spec, ledger)
    state, facts = run.state, run.facts
    ledger.attach(run.folder, state.step)
    with (
        ledger,
        run.stop as stop,
        Metrics(recipe, run.folder, state.step, len(state.guard.rewinds)) as metrics,
        profiled(run.folder, config.profile, state.step) as profile_step,
        Progress("train", facts.steps, "steps", start=state.step) as progress,
        saved_when_stopped(run, config),
    ):
        if state.step and (state.step == facts.steps or due(state.step, config.evaluate_every_steps)):
            # The save came first, so a kill may have fallen between the two.
            evaluate(recipe, run, metrics, progress)
        while state.step < facts.steps:
            stop.leave_if_asked()
            share = lr_share(config.schedule, state.tokens + config.batch_tokens / 2, facts.tokens)
            with ledger.phase("data", state.step + 1):
                batches = state.loader.step()
                run.meter.add(batches)
                batches = [batch.to(run.device) for batch in batches]
            with ledger.phase("compute", state.step + 1):
                loss, grad_norm = forward_backward(run, batches, config.clip_norm)
                refusal = state.guard.judge(loss, grad_norm)
                if not refusal:
                    state.optimizer.step(share)
                if state.average is not None and not refusal:
                    follow(state.average, state.model, config.ema_decay, state.step)
            profile_step()
            state.step += 1
            state.tokens += config.batch_tokens
            last, run.loss = state.step == facts.steps, loss

            if refusal and (steps_back := refuse(run, batches, refusal, loss, grad_norm, metrics)):
                progress.advance(1 - steps_back)
                continue
            if not refusal and (last or due(state.step, config.log_every_steps)):
                ledger.write(state.step)
                figures = {"loss": loss, "lr": share * peak_lr(recipe), "grad_norm": grad_norm}
                rates = run.meter.lap(ledger.working())
                metrics.write("train", state.step, state.tokens, **figures, **rates)
                progress.advance(0, f"loss {loss:.3f}, {rates_text(rates, run.precision)}")
            if last or due(state.step, config.save_every_steps):
                save_step(run, config)
            if last or due(state.step, config.evaluate_every_steps):
                evaluate(recipe, run, metrics, progress)
            progress.advance()
        metrics.write("finished", state.step, state.tokens)
        if stop.signalled:
            stop.leave()  # or a chain of stages would go on
    print_ledger(run.folder)
    assert run.checkpoint is not None  # a plan has at least one step, and the last step saves
    say(f"train: finished {facts.steps:,} steps; wrote {run.checkpoint.path} ({run.checkpoint.fingerprint[:12]})")
    return run.checkpoint


def prepare(recipe: Recipe, spec: Spec, ledger: Ledger | None = None) -> Run:
    """Build everything in order of dependency, restore the newest sound checkpoint, print the facts."""
    config, folder, facts = recipe.train, recipe.folder("train"), plan(recipe)
    device = resolve_device(config)
    precision = resolve_precision(config, device)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(derive(recipe.seed, "train"))

    shards = spec.parents["shards"]
    checkpoint = newest_sound(folder, spec, redo=recipe.redo)
    folder.mkdir(parents=True, exist_ok=True)
    model = build(recipe.model, recipe.seed).to(device)
    rescale(model, config.optimizer)
    objective = build_objective(recipe.objective)
    micro = choose_micro_batch(recipe, facts.batch_rows, model, objective, device, precision, checkpoint)
    loader = Loader(shards, batch_rows=facts.batch_rows, micro_batch_rows=micro, seed=recipe.seed)
    state = TrainState(model, Optimizer(model, config.optimizer, recipe.model), loader, Guard(config.guard))
    if config.ema_decay:
        state.average = average_of(model)
    if checkpoint is not None:
        _same_arithmetic(checkpoint, precision)
        restore(checkpoint, state)
        say(f"train: going on from {checkpoint.path} (step {state.step:,} of {facts.steps:,})")
    evaluator = Evaluator(recipe, shards, objective, device, precision, micro)
    tokenizer = Tokenizer.load(spec.parents["tokenizer"].path)
    stop, meter = stop_request(config, facts.num_parameters), Meter(recipe.model, device, precision)
    run = Run(
        folder, spec, facts, device, precision, state, objective, evaluator, tokenizer, checkpoint, stop, meter,
        ledger or Ledger(time.perf_counter()), micro,
    )  # fmt: skip
    epochs = facts.steps * facts.batch_rows / shards.counts["train"]["rows"]
    announce(recipe, facts, device, precision, epochs, probe(run), meter)
    return run


def save_step(run: Run, config: TrainConfig) -> None:
    """Publish the state as it is after a step."""
    began, state = time.perf_counter(), run.state
    figures = {
        "finished": state.step == run.facts.steps,
        "loss": plain(run.loss),
        "precision": run.precision,
        "threads": torch.get_num_threads(),
        "micro_batch_rows": run.micro_rows,
        "rewind_target": due(state.step, config.save_every_steps) and not state.guard.skips,
    }
    with run.ledger.phase("save"):
        run.checkpoint = save(run.folder, run.spec, state, config.keep_last, **figures)
    run.stop.saved(time.perf_counter() - began)


@contextmanager
def saved_when_stopped(run: Run, config: TrainConfig) -> Iterator[None]:
    """Save what the steps since the last checkpoint learned when the run leaves because it was asked to."""
    try:
        yield
    except KeyboardInterrupt:
        saved_step = run.checkpoint.counts["step"] if run.checkpoint else 0
        if run.stop.leaving and run.state.step > saved_step:
            save_step(run, config)
        raise


def give_up_step(run: Run, generator: torch.Tensor) -> NoReturn:
    """Leave in the middle of an accumulation as if the step had not begun; the weights have not changed."""
    run.state.model.zero_grad(set_to_none=True)
    run.state.loader.undo()
    torch.set_rng_state(generator)
    run.stop.leave()


def evaluate(recipe: Recipe, run: Run, metrics: Metrics, progress: Progress) -> None:
    """Held-out loss, and what the model says to the recipe's prompts, as rows of the metrics."""
    state = run.state
    with run.ledger.phase("evaluate"):
        held_out = run.evaluator(state.published, run.stop)
    metrics.write("evaluate", state.step, state.tokens, **held_out)
    progress.advance(0, f"held out {held_out['bits_per_byte']:.3f} bits/byte")
    for prompt in recipe.train.sample_prompts:
        run.stop.leave_if_asked()
        with run.ledger.phase("sample"):
            text = continuation(state.published, run.tokenizer, prompt, recipe.seed, state.step)
        metrics.write("sample", state.step, state.tokens, prompt=prompt, text=text)


def forward_backward(run: Run, batches: list[Batch], clip_norm: float) -> tuple[float, float]:
    """Gradients of the mean loss over all targets of a step; returns (loss in nats per token, gradient norm).

    The sum over micro-batches is divided once by the targets of the whole step, so the result does not
    depend on how rows are spread over micro-batches.
    """
    model = run.state.model
    generator = torch.get_rng_state()
    tokens = sum(batch.num_targets for batch in batches)
    nats = torch.zeros((), dtype=torch.float64, device=run.device)
    for done, batch in enumerate(batches):
        if run.stop.rest_is_long(done, len(batches)):
            give_up_step(run, generator)
        with autocast(run.device, run.precision):
            loss = run.objective(model, batch)
        (loss.nats_sum / tokens).backward()  # type: ignore[no-untyped-call]
        nats += loss.cross_entropy_sum.double()
    limit = clip_norm if clip_norm > 0 else math.inf
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit, error_if_nonfinite=False)
    return float(nats / tokens), float(norm)


class Evaluator:
    """Loss and bits per byte over a fixed part of the held-out rows; changes nothing of the run's state."""

    def __init__(
        self, recipe: Recipe, shards: Artifact, objective: Objective, device: str, precision: Precision, step_rows: int
    ) -> None:
        self._reader = ShardReader(shards, "validation")
        self._pad_id: int = shards.counts["pad_id"]
        self._rows = min(recipe.train.evaluate_rows, self._reader.num_rows)
        self._step_rows = step_rows
        counts = shards.counts["validation"]
        self._targets_per_byte = counts["targets"] / counts["bytes"]
        self._objective, self._device, self._precision = objective, device, precision

    @torch.no_grad()
    def __call__(self, model: Transformer, stop: StopRequest) -> dict[str, float]:
        """`{"loss": nats per token, "bits_per_byte": ...}`; bytes by the held-out set's mean bytes per token."""
        began, nats, tokens = time.perf_counter(), 0.0, 0
        for begin in range(0, self._rows, self._step_rows):
            stop.leave_if_asked()
            rows = range(begin, min(begin + self._step_rows, self._rows))
            batch = collate(*self._reader.rows(list(rows)), self._pad_id).to(self._device)
            with autocast(self._device, self._precision):
                loss = self._objective(model, batch)
            nats += float(loss.cross_entropy_sum)
            tokens += loss.tokens
        mean = nats / tokens
        return {
            "loss": mean,
            "bits_per_byte": mean / math.log(2) * self._targets_per_byte,
            "seconds": time.perf_counter() - began,
        }


def due(step: int, every: int) -> bool:
    """True at each multiple of `every`; 0 is never."""
    return every > 0 and step % every == 0


def peak_lr(recipe: Recipe) -> float:
    """The learning rate that the log shows: Muon's where it updates the matrices, else AdamW's."""
    optimizer = recipe.train.optimizer
    return optimizer.muon_lr if optimizer.kind == "muon" else optimizer.lr


def probe(run: Run) -> float:
    """Seconds that one step will take, from one micro-batch measured after a warm-up; state is left as it was."""
    loader = run.state.loader
    cursor = loader.state_dict()
    batches = [batch.to(run.device) for batch in loader.step()]
    loader.load_state_dict(cursor)
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        with autocast(run.device, run.precision):
            loss = run.objective(run.state.model, batches[0])
        loss.nats_sum.backward()  # type: ignore[no-untyped-call]
        if run.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    run.state.model.zero_grad(set_to_none=True)
    return seconds * len(batches)


def _same_arithmetic(checkpoint: Artifact, precision: Precision) -> None:
    before, threads = checkpoint.counts["precision"], checkpoint.counts["threads"]
    if before != precision:
        raise UserError(
            f"{checkpoint.path} was trained in {before}, but this machine would go on in {precision}; "
            f"set train.precision={before} to continue it, or choose another run="
        )
    if threads != torch.get_num_threads():
        say(
            f"train: the run began with {threads} threads and goes on with {torch.get_num_threads()}: "
            f"results agree to rounding, not bit for bit (train.threads={threads} makes them equal)"
        )
