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
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch

from slm.core.artifact import Artifact, Spec, make_folder
from slm.core.batch import Batch
from slm.core.console import Progress, say
from slm.core.distributed import SOLO, World
from slm.core.energy import Energy
from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.model.block import set_recompute
from slm.objective import build as build_objective
from slm.objective.loss import Objective
from slm.recipe import Recipe
from slm.shards.loader import Loader, check_division
from slm.tokenizer import Tokenizer
from slm.train.averaging import average_of, follow
from slm.train.batch_ramp import step_tokens
from slm.train.checkpoint import TrainState, restore
from slm.train.collapse import CollapseWatch
from slm.train.compilation import compile_blocks
from slm.train.config import TrainConfig
from slm.train.curriculum import cut, row_length
from slm.train.dropout import thin
from slm.train.evaluation import Evaluator, evaluate
from slm.train.guard import Guard
from slm.train.initial import starting_model
from slm.train.ledger import Ledger, print_ledger, totals_of_run
from slm.train.metrics import Metrics, NoMetrics, StepFigures
from slm.train.micro_batch import choose_micro_batch
from slm.train.noise_scale import NoiseScale
from slm.train.on_policy import own_answers, writes
from slm.train.optim import Optimizer, offloads
from slm.train.parallel import Parallel, choose
from slm.train.plan import Plan, announce, plan
from slm.train.precision import Precision, autocast, prepare_device, resolve_device
from slm.train.probe import probe
from slm.train.profile import profiled
from slm.train.quantization import Rounding, rounding_of
from slm.train.recovery import plain, refuse
from slm.train.reference import with_reference
from slm.train.remote import newest_anywhere, uploader_of
from slm.train.saver import Saver
from slm.train.schedule import lr_share
from slm.train.sources import SourceLosses, sampler_for
from slm.train.sparsity import Mask, mask_of
from slm.train.speed import Meter, rates_text
from slm.train.statistics import layers_measured
from slm.train.stop import StopRequest, stop_request
from slm.train.tasks import check_tasks
from slm.train.working_copy import Working, working_copy


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
    saver: Saver
    stop: StopRequest
    meter: Meter
    ledger: Ledger
    micro_rows: int
    parallel: Parallel
    noise: NoiseScale
    sources: SourceLosses
    working: Working
    rounding: Rounding
    mask: Mask
    collapse: CollapseWatch
    figures: StepFigures = field(default_factory=StepFigures)
    loss: float = math.nan
    """Of the last step."""
    evaluations_failed: int = 0


def train(recipe: Recipe, spec: Spec, began: float | None = None, world: World = SOLO) -> Artifact:
    """Train from the newest sound checkpoint, or from nothing, to the recipe's last token."""
    config, energy = recipe.train, Energy(resolve_device(recipe.train), world)
    ledger = Ledger(began or time.perf_counter(), energy)
    run = prepare(recipe, spec, ledger, world)
    state, facts = run.state, run.facts
    ledger.attach(run.folder if world.leader else None, state.step, spec.key)
    with (
        ledger,
        run.stop as stop,
        Metrics(recipe, run.folder, state.step, len(state.guard.rewinds)) if world.leader else NoMetrics() as metrics,
        profiled(run.folder, config.profile if world.leader else 0, state.step) as profile_step,
        Progress("train", facts.steps, "steps", start=state.step) as progress,
        saved_when_stopped(run, config),
    ):
        if config.compile and state.step < facts.steps:
            compile_blocks(run, recipe.shards.seq_len)
        if state.step and (state.step == facts.steps or due(state.step, config.evaluate_every_steps)):
            # The save came first, so a kill may have fallen between the two.
            evaluate(recipe, run, metrics, progress)
        while state.step < facts.steps:
            stop.leave_if_asked()
            run.saver.look()
            size = step_tokens(config, state.tokens)
            share = lr_share(config.schedule, state.tokens + size / 2, facts.tokens)
            with ledger.phase("data", state.step + 1):
                batches = next_batches(run, recipe, size)
            own = writes(recipe, state.step)
            batches = answered(run, recipe, batches) if own else batches
            with ledger.phase("compute", state.step + 1):
                loss, grad_norm = forward_backward(run, batches, config.clip_norm)
                refusal = state.guard.judge(loss, grad_norm, own)
                run.noise.write(grad_norm, bool(refusal), metrics, state.step + 1, state.tokens + size)
                if not refusal and due(state.step + 1, config.statistics_every_steps):
                    with layers_measured(run, batches, grad_norm, config.clip_norm) as sizes:
                        state.optimizer.step(share)
                    metrics.write("layers", state.step + 1, state.tokens + size, **sizes)
                elif not refusal:
                    state.optimizer.step(share)
                if not refusal:
                    run.mask.hold_weights()
                if state.average is not None and not refusal:
                    follow(state.average, state.model, config.ema_decay, state.step)
            profile_step()
            state.step += 1
            state.tokens += size
            last, run.loss = state.step == facts.steps, loss
            by_source = follow_sources(run, config, refusal)

            if refusal and (steps_back := refuse(run, batches, refusal, loss, grad_norm, metrics)):
                progress.advance(1 - steps_back)
                continue
            first = state.step == 1 and recipe.objective.kind == "preference"  # which later steps are compared with
            if not refusal and (first or last or due(state.step, config.log_every_steps)):
                ledger.write(state.step)
                figures = {"loss": loss, "lr": share * peak_lr(recipe), "grad_norm": grad_norm, **by_source}
                figures |= run.figures.take(world)
                run.collapse.look(state.step, figures)
                rates = run.meter.lap(ledger.working())
                metrics.write("train", state.step, state.tokens, **figures, **rates, energy_joules=ledger.joules())
                progress.advance(0, f"loss {loss:.3f}, {rates_text(rates, run.precision)}")
            if last or due(state.step, config.save_every_steps):
                save_step(run, config)
            if last or due(state.step, config.evaluate_every_steps):
                evaluate(recipe, run, metrics, progress)
            progress.advance()
        with ledger.phase("save"):
            last_checkpoint = run.saver.wait()
        ledger.write(state.step)
        metrics.write("finished", state.step, state.tokens, **totals_of_run(run.folder, config.price_per_hour))
    print_ledger(run.folder, config.price_per_hour)
    assert last_checkpoint is not None  # a plan has at least one step, and the last step saves
    say(f"train: finished {facts.steps:,} steps; wrote {last_checkpoint.path} ({last_checkpoint.fingerprint[:12]})")
    return last_checkpoint


def prepare(recipe: Recipe, spec: Spec, ledger: Ledger | None = None, world: World = SOLO) -> Run:
    """Build everything in order of dependency, restore the newest sound checkpoint, print the facts."""
    config, folder, facts = recipe.train, recipe.folder("train"), plan(recipe)
    parallel = choose(config, world)
    device, precision = prepare_device(config)
    torch.manual_seed(derive(recipe.seed, "train", *([world.rank] if world.rank else [])))

    shards = spec.parents["shards"]
    uploader = uploader_of(recipe)
    checkpoint = world.lead(lambda: newest_anywhere(folder, spec, uploader, redo=recipe.redo))
    make_folder(folder)
    model = starting_model(recipe, spec).to(device)
    set_recompute(model, config.activation_checkpointing)
    objective = with_reference(build_objective(recipe.objective), recipe, spec, device, precision, world)
    rows = max(1, facts.first_rows // world.size)
    parts = (model, objective, device, precision, checkpoint, parallel)
    micro = world.lead(lambda: choose_micro_batch(recipe, rows, *parts))
    sizes = {"batch_rows": facts.batch_rows, "micro_batch_rows": micro, "prefetch_steps": config.prefetch_steps}
    store = spec.parents.get("distill")
    if config.batch_ramp.start_tokens:
        check_division(facts.first_rows, micro, world.size, "train.batch_ramp.start_tokens")
    loader = Loader(
        shards, seed=recipe.seed, rank=world.rank, world_size=world.size, store=store, sources=config.sources, **sizes
    )
    average = parallel.distribute(average_of(model)) if config.ema_decay else None
    optimizer = Optimizer(parallel.distribute(model), config.optimizer, recipe.model, offload=offloads(config, device))
    mask = mask_of(model) if config.sparsity != "none" else Mask()
    state = TrainState(model, optimizer, loader, Guard(config.guard), average, 0, 0, parallel, saving=world.apart())
    state.sampler = sampler_for(config.source_sampling, shards)
    if state.sampler is not None:
        loader.reweigh(state.sampler.shares())
    if checkpoint is not None:
        _same_arithmetic(checkpoint, precision, world.size)
        restore(checkpoint, state)
        say(f"train: going on from {checkpoint.path} (step {state.step:,} of {facts.steps:,})")
    elif initial := spec.parents.get("initial"):
        say(f"train: beginning with the weights of {config.initial} ({initial.fingerprint[:12]})")
    check_tasks(recipe)
    evaluator = Evaluator(recipe, shards, objective, device, precision, micro, parallel)
    tokenizer = Tokenizer.load(spec.parents["tokenizer"].path)
    working = working_copy(model, precision, sharded=parallel.shards)
    stop = stop_request(config, facts.num_parameters, agree=world.any if world.size > 1 else None)
    meter, ledger = Meter(recipe.model, device, precision, world, config.lora), ledger or Ledger(time.perf_counter())
    saver = Saver(folder, spec, config.checkpoints, ledger, stop, uploader, checkpoint)
    noise = NoiseScale(config.noise_scale_every_steps, folder, model, parallel)
    noise.check(facts.batch_rows // (micro * world.size))
    run = Run(
        folder, spec, facts, device, precision, state, objective, evaluator, tokenizer, saver, stop, meter, ledger,
        micro, parallel, noise, SourceLosses(list(loader.reader.ranges), device), working,
        rounding_of(config.quantization, model), mask, CollapseWatch(folder),
    )  # fmt: skip
    if world.size > 1:
        say(f"train: {parallel}")
    epochs = facts.tokens / recipe.shards.seq_len / shards.counts["train"]["rows"]
    announce(recipe, facts, device, precision, epochs, probe(run, recipe), meter)
    return run


def next_batches(run: Run, recipe: Recipe, size: int) -> list[Batch]:
    """The micro-batches of the next step of `size` positions, in rows as long as the curriculum says, on the device."""
    curriculum, state = recipe.train.curriculum, run.state
    length = row_length(curriculum, state.tokens, run.facts.tokens, recipe.shards.seq_len)
    batches = [cut(batch, length) for batch in state.loader.step(size // recipe.shards.seq_len)]
    thin(batches, recipe, state.step, state.tokens / run.facts.tokens, run.parallel.world)
    run.meter.add(batches)
    return [batch.to(run.device) for batch in batches]


def answered(run: Run, recipe: Recipe, batches: list[Batch]) -> list[Batch]:
    """The micro-batches of a step with the student's own answers."""
    state, generator = run.state, torch.get_rng_state()
    with run.ledger.phase("generate", state.step + 1), run.rounding.applied(state.model, state.tokens):
        found: list[Batch] = []
        for batch in own_answers(run, recipe, batches):
            found.append(batch)
            if run.stop.rest_is_long(len(found), len(batches)):
                give_up_step(run, generator)
    return found


def follow_sources(run: Run, config: TrainConfig, refusal: str) -> dict[str, float]:
    """Loss and share of each source in the step just done, and new shares where they are due; one source: nothing."""
    state = run.state
    losses, shares = run.sources.finish(run.parallel.world), state.loader.shares
    if state.sampler is not None and not refusal:
        state.sampler.observe(losses)
        if due(state.step, config.source_sampling.every_steps):
            state.loader.reweigh(state.sampler.shares())
    return {f"loss/{name}": loss for name, loss in losses.items()} | {f"share/{n}": s for n, s in shares.items()}


def save_step(run: Run, config: TrainConfig) -> None:
    """Publish the state as it is after a step."""
    state = run.state
    figures = {
        "finished": state.step == run.facts.steps,
        "loss": plain(run.loss),
        "precision": run.precision,
        "threads": torch.get_num_threads(),
        "processes": run.parallel.world.size,
        "micro_batch_rows": run.micro_rows,
        "conversations": not {"conversations", "preferences"}.isdisjoint(run.spec.parents["shards"].counts),
        "rewind_target": due(state.step, config.save_every_steps) and not state.guard.skips,
        "rewinds": list(state.guard.rewinds),
    }
    with run.ledger.phase("save"):
        run.saver.save(state, figures)


@contextmanager
def saved_when_stopped(run: Run, config: TrainConfig) -> Iterator[None]:
    """Save what the steps since the last checkpoint learned when the run leaves because it was asked to.

    However the run ends, saves and uploads under way are given time.
    """
    try:
        yield
        with run.ledger.phase("save"):
            run.saver.finish()
        run.stop.leave_if_signalled()  # or a chain of stages would go on
    except KeyboardInterrupt:
        if run.stop.leaving:
            if run.state.step > run.saver.step:
                save_step(run, config)
            with run.ledger.phase("save"):
                run.saver.finish()
        raise
    except Exception:
        run.saver.settle()
        raise


def give_up_step(run: Run, generator: torch.Tensor) -> NoReturn:
    """Leave in the middle of an accumulation as if the step had not begun; the weights have not changed."""
    run.state.model.zero_grad(set_to_none=True)
    run.state.loader.undo()
    torch.set_rng_state(generator)
    run.stop.leave()


def forward_backward(run: Run, batches: list[Batch], clip_norm: float) -> tuple[float, float]:
    """Gradients of the mean loss over all targets of a step; returns (loss in nats per token, gradient norm).

    The sum over micro-batches is divided once by the targets of the whole step, so the result does not
    depend on how rows are spread over micro-batches and processes.
    """
    master, world = run.state.model, run.parallel.world
    generator = torch.get_rng_state()
    run.figures.begin()
    tokens = int(world.sum(sum(batch.divisor for batch in batches))[0])
    nats = torch.zeros((), dtype=torch.float64, device=run.device)
    with run.rounding.applied(master, run.state.tokens):
        model = run.working.refresh()
        for done, batch in enumerate(batches):
            if run.stop.rest_is_long(done, len(batches)):
                give_up_step(run, generator)
            with autocast(run.device, run.precision):
                loss = run.objective(model, batch)
            run.sources.add(batch, loss)
            run.figures.add(loss)
            (loss.nats_sum / tokens).backward()  # type: ignore[no-untyped-call]
            nats += loss.cross_entropy_sum.double()
            run.noise.add(run.state.step, batch.divisor)
    run.parallel.reduce_gradients(master)
    run.mask.hold_gradients()
    norm = run.parallel.clip(master, clip_norm)
    all_nats, norm = world.sum(float(nats), norm if world.leader else 0.0)  # what the guard judges is equal everywhere
    return all_nats / tokens, norm


def due(step: int, every: int) -> bool:
    """True at each multiple of `every`; 0 is never."""
    return every > 0 and step % every == 0


def peak_lr(recipe: Recipe) -> float:
    """The learning rate that the log shows: Muon's where it updates the matrices, else AdamW's."""
    optimizer = recipe.train.optimizer
    return optimizer.muon_lr if optimizer.kind == "muon" else optimizer.lr


def _same_arithmetic(checkpoint: Artifact, precision: Precision, processes: int) -> None:
    before, threads = checkpoint.counts["precision"], checkpoint.counts["threads"]
    begun = checkpoint.counts.get("processes", 1)
    if begun != processes:
        say(
            f"train: the run was at {begun} processes and goes on with {processes}: each step takes the same tokens, "
            "and results agree to rounding, not bit for bit"
        )
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
