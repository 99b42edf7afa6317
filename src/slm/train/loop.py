"""The loop. Everything optional is a visible `if due(...)`, in order; saving comes before evaluating.

Position is the loader's global cursor, the learning rate is a function of tokens seen, and the state holds
everything else that shapes the next step. So a run that was killed anywhere and started again computes
exactly what the unbroken run does (same machine, same number of threads).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

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
from slm.train.checkpoint import TrainState, newest_sound, restore, save
from slm.train.ledger import Ledger, print_ledger
from slm.train.metrics import Metrics
from slm.train.micro_batch import choose_micro_batch
from slm.train.optim import Optimizer
from slm.train.plan import Plan, announce, plan
from slm.train.precision import Precision, autocast, resolve_device, resolve_precision
from slm.train.profile import profiled
from slm.train.samples import continuation
from slm.train.schedule import lr_share
from slm.train.speed import Meter, rates_text
from slm.train.stop import StopRequest


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
    meter: Meter
    micro_rows: int


def train(recipe: Recipe, spec: Spec, began: float | None = None) -> Artifact:
    """Train from the newest sound checkpoint, or from nothing, to the recipe's last token."""
    config, ledger = recipe.train, Ledger(began or time.perf_counter())
    run = prepare(recipe, spec)
    state, facts = run.state, run.facts
    ledger.attach(run.folder, state.step)
    with (
        ledger,
        StopRequest() as stop,
        Metrics(recipe, run.folder, state.step) as metrics,
        profiled(run.folder, config.profile, state.step) as profile_step,
        Progress("train", facts.steps, "steps", start=state.step) as progress,
    ):
        if state.step and (state.step == facts.steps or due(state.step, config.evaluate_every_steps)):
            # The save came first, so a kill may have fallen between the two.
            evaluate(recipe, run, metrics, progress, ledger)
        while state.step < facts.steps:
            share = lr_share(config.schedule, state.tokens + config.batch_tokens / 2, facts.tokens)
            with ledger.phase("data", state.step + 1):
                batches = state.loader.step()
                run.meter.add(batches)
                batches = [batch.to(run.device) for batch in batches]
            with ledger.phase("compute", state.step + 1):
                loss, grad_norm = forward_backward(run, batches, config.clip_norm)
                state.optimizer.step(share)
            profile_step()
            state.step += 1
            state.tokens += config.batch_tokens
            last = state.step == facts.steps

            if last or due(state.step, config.log_every_steps):
                ledger.write(state.step)
                figures = {"loss": loss, "lr": share * peak_lr(recipe), "grad_norm": grad_norm}
                rates = run.meter.lap(ledger.working())
                metrics.write("train", state.step, state.tokens, **figures, **rates)
                progress.advance(0, f"loss {loss:.3f}, {rates_text(rates, run.precision)}")
            if last or stop.requested or due(state.step, config.save_every_steps):
                how = {
                    "precision": run.precision,
                    "threads": torch.get_num_threads(),
                    "micro_batch_rows": run.micro_rows,
                }
                with ledger.phase("save"):
                    run.checkpoint = save(run.folder, spec, state, config.keep_last, finished=last, loss=loss, **how)
            if stop.requested and not last:
                raise KeyboardInterrupt
            if last or due(state.step, config.evaluate_every_steps):
                evaluate(recipe, run, metrics, progress, ledger)
            progress.advance()
        metrics.write("finished", state.step, state.tokens)
    print_ledger(run.folder)
    assert run.checkpoint is not None  # a plan has at least one step, and the last step saves
    say(f"train: finished {facts.steps:,} steps; wrote {run.checkpoint.path} ({run.checkpoint.fingerprint[:12]})")
    return run.checkpoint


def prepare(recipe: Recipe, spec: Spec) -> Run:
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
    objective = build_objective(recipe.objective)
    micro = choose_micro_batch(recipe, facts.batch_rows, model, objective, device, precision, checkpoint)
    loader = Loader(shards, batch_rows=facts.batch_rows, micro_batch_rows=micro, seed=recipe.seed)
    state = TrainState(model, Optimizer(model, config.optimizer), loader)
    if checkpoint is not None:
        _same_arithmetic(checkpoint, precision)
        restore(checkpoint, state)
        say(f"train: going on from {checkpoint.path} (step {state.step:,} of {facts.steps:,})")
    evaluator = Evaluator(recipe, shards, objective, device, precision, micro)
    tokenizer = Tokenizer.load(spec.parents["tokenizer"].path)
    meter = Meter(recipe.model, device, precision)
    run = Run(folder, spec, facts, device, precision, state, objective, evaluator, tokenizer, checkpoint, meter, micro)
    epochs = facts.steps * facts.batch_rows / shards.counts["train"]["rows"]
    announce(recipe, facts, device, precision, epochs, probe(run), meter)
    return run


def evaluate(recipe: Recipe, run: Run, metrics: Metrics, progress: Progress, ledger: Ledger) -> None:
    """Held-out loss, and what the model says to the recipe's prompts, as rows of the metrics."""
    state = run.state
    with ledger.phase("evaluate"):
        held_out = run.evaluator(state.model)
    metrics.write("evaluate", state.step, state.tokens, **held_out)
    progress.advance(0, f"held out {held_out['bits_per_byte']:.3f} bits/byte")
    for prompt in recipe.train.sample_prompts:
        with ledger.phase("sample"):
            text = continuation(state.model, run.tokenizer, prompt, recipe.seed, state.step)
        metrics.write("sample", state.step, state.tokens, prompt=prompt, text=text)


def forward_backward(run: Run, batches: list[Batch], clip_norm: float) -> tuple[float, float]:
    """Gradients of the mean loss over all targets of a step; returns (loss in nats per token, gradient norm).

    The sum over micro-batches is divided once by the targets of the whole step, so the result does not
    depend on how rows are spread over micro-batches.
    """
    model = run.state.model
    tokens = sum(batch.num_targets for batch in batches)
    nats = torch.zeros((), dtype=torch.float64, device=run.device)
    for batch in batches:
        with autocast(run.device, run.precision):
            loss = run.objective(model, batch)
        (loss.nats_sum / tokens).backward()  # type: ignore[no-untyped-call]
        nats += loss.cross_entropy_sum.double()
    limit = clip_norm if clip_norm > 0 else math.inf
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit, error_if_nonfinite=False)
    mean, grad_norm = float(nats / tokens), float(norm)
    if not (math.isfinite(mean) and math.isfinite(grad_norm)):
        raise UserError(
            f"the loss ({mean}) or the gradient norm ({grad_norm}) is not finite; the weights of the last checkpoint "
            "are sound: lower train.optimizer.lr or muon_lr, or look for a damaged document"
        )
    return mean, grad_norm


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
    def __call__(self, model: Transformer) -> dict[str, float]:
        """`{"loss": nats per token, "bits_per_byte": ...}`; bytes by the held-out set's mean bytes per token."""
        began, nats, tokens = time.perf_counter(), 0.0, 0
        for begin in range(0, self._rows, self._step_rows):
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
