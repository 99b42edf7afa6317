"""`python -m slm.plan recipe=NAME`: what a training will take, before anything is made.

In: a recipe alone; shards are looked at if they are there. Out, printed: parameters and memory by part, the
largest micro-batch for devices of 8 to 141 GB, steps, FLOPs, and the time and cost to finish on this machine,
from a short measured step of one and of two layers (`probe=false` leaves it out), and on known devices, at
an assumed share of what their data sheets say. Nothing is written. pretrain_300m takes about 20 seconds.

`processes=8` plans for so many, sharing the model as `train.parallel` says; memory is that of each. `price=2.5`
is what an hour of all that computes costs, in any currency; without it costs are unknown.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time

import torch

from slm.compose import command
from slm.core.console import duration, quantity, say, size, table
from slm.core.distributed import World
from slm.core.errors import UserError
from slm.model.block import set_recompute
from slm.model.counting import parameters_by_part
from slm.model.lora import attach_blank
from slm.model.transformer import build
from slm.objective import build as build_objective
from slm.recipe import Recipe
from slm.train.devices import DEVICES, UNKNOWN
from slm.train.memory import HEADROOM, Memory, blank_batch, divisors, largest_that_fits, predict_for
from slm.train.noise_scale import advice
from slm.train.parallel import Parallel, choose
from slm.train.plan import Plan, plan, step_sizes
from slm.train.precision import Precision, autocast, resolve_device, resolve_precision
from slm.train.speed import Meter, flops_text
from slm.train.working_copy import working_copy

SHORTCUTS = {"probe": "train.probe", "price": "train.price_per_hour", "processes": "train.processes"}
SIZES_GB = (8, 16, 24, 80, 141)
ASSUMED_MFU = 0.4
"""For devices that are not here. Published: 350M parameters at 52 % on A100, 760M at 35 to 40 % on H100."""


def run(recipe: Recipe) -> None:
    """Print the plan."""
    facts = plan(recipe)
    device = resolve_device(recipe.train)
    precision = resolve_precision(recipe.train, device)
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)

    parallel = planned(recipe)
    own_rows = rows_of_each(facts, parallel.world.size)
    other = "cpu" if recipe.train.device == "cpu" else "cuda"  # what the sizes below are sizes of

    @functools.cache
    def memory(rows: int, kind: str = other) -> Memory:
        return predict_for(recipe, kind, precision, rows, own_rows, parallel)

    def largest(num_bytes: float, kind: str = other) -> int | None:
        return largest_that_fits(divisors(own_rows), lambda rows: memory(rows, kind).total, num_bytes * HEADROOM)

    say_size(recipe, facts)
    if noise := advice(recipe.folder("train"), recipe.train.batch_tokens):
        say(noise)
    fits = {gb: largest(gb * 1e9) for gb in SIZES_GB}
    micro = recipe.train.micro_batch_rows
    rows = micro if not isinstance(micro, str) else max(filter(None, fits.values()), default=1)
    say_memory(memory(rows, device), rows, precision, parallel)
    say_devices(recipe, facts, memory, fits, parallel)
    if recipe.train.probe:
        free = memory_bytes(device) / (parallel.world.local_size if device == "cpu" else 1)
        say_here(recipe, facts, device, precision, free, largest(free, device))


def planned(recipe: Recipe) -> Parallel:
    """The strategy over the processes that are planned with, as if they were on one machine."""
    return choose(recipe.train, World(size=recipe.train.processes, local_size=recipe.train.processes))


def rows_of_each(facts: Plan, processes: int) -> int:
    """Rows of a step that each process has."""
    if facts.first_rows % processes:
        raise UserError(
            f"train.processes ({processes}) must divide the rows of a step ({facts.first_rows}); "
            "take another number, or change train.batch_tokens"
        )
    return facts.first_rows // processes


def say_size(recipe: Recipe, facts: Plan) -> None:
    """Parameters by part, then what the whole training amounts to."""
    parts = parameters_by_part(recipe.model)
    rows = [(name, quantity(n), f"{100 * n / facts.num_parameters:.1f} %") for name, n in parts.items() if n]
    table("Parameters", ("part", "count", "share"), [*rows, ("all", quantity(facts.num_parameters), "100.0 %")])
    say(
        f"{quantity(facts.tokens)} tokens in {quantity(facts.steps)} steps of {step_sizes(recipe)}: "
        f"{facts.tokens / facts.num_parameters:.1f} tokens per parameter, {epochs(recipe, facts)}"
    )
    products = "6 x (matrices + head)" if recipe.train.lora is None else "4 x (matrices + head) + 6 x adapters"
    say(
        f"{facts.flops:.3g} FLOPs: each token {products} + 12 x layers x heads x head_dim x "
        f"(keys seen, {recipe.shards.seq_len:,}-token documents)"
    )


def epochs(recipe: Recipe, facts: Plan) -> str:
    """How often each row is read, where there are shards to count."""
    try:
        rows = recipe.artifact("shards").counts["train"]["rows"]
    except UserError:
        return "epochs unknown until the shards are made"
    return f"{facts.tokens / recipe.shards.seq_len / rows:.2f} epochs"


def say_memory(use: Memory, rows: int, precision: Precision, parallel: Parallel) -> None:
    """Memory by part."""
    parts = {name: count for name, count in dataclasses.asdict(use).items() if count}
    cells = [(name, size(count), f"{100 * count / use.total:.1f} %") for name, count in parts.items()]
    whose = f" of each of {parallel.world.size} processes ({parallel.strategy})" if parallel.world.size > 1 else ""
    say(f"memory{whose} at micro-batches of {rows} rows in {precision}, following the operations of the CPU:")
    table("Memory", ("part", "size", "share"), [*cells, ("all", size(use.total), "100.0 %")])


def say_devices(
    recipe: Recipe,
    facts: Plan,
    memory: functools._lru_cache_wrapper[Memory],
    fits: dict[int, int | None],
    parallel: Parallel,
) -> None:
    """What fits into devices of each size, and how long those known would take."""
    rows, count = [], parallel.world.size
    for gb, largest in fits.items():
        if largest is None:
            rows.append((f"{gb} GB", "does not fit", size(memory(1).total), "-", "-", "-"))
            continue
        known = [(name, one) for name, one in DEVICES.items() if one.memory_gb == gb]
        for name, one in known:
            seconds = facts.flops / (count * one.bf16_flops * ASSUMED_MFU)
            rows.append(
                (f"{gb} GB", f"{largest} rows", size(memory(largest).total), name, duration(seconds),
                 cost(recipe, seconds))
            )  # fmt: skip
    which = f"{count} devices, {parallel.strategy}" if count > 1 else "One device"
    title = f"{which}; time at an assumed {100 * ASSUMED_MFU:.0f} % of its data sheet's bf16 rate"
    table(title, ("memory", "largest micro-batch", "takes", "device", "time", "cost"), rows)


def say_here(recipe: Recipe, facts: Plan, device: str, precision: Precision, free: float, largest: int | None) -> None:
    """What this machine measured."""
    seconds = seconds_per_row(recipe, device, precision) * facts.tokens / recipe.shards.seq_len
    meter, rate = Meter(recipe.model, device, precision), facts.flops / seconds
    fits = f"micro-batches of up to {largest} rows fit" if largest else "not even one row fits"
    say(f"here: {fits} into {size(free)}{' for each process' if recipe.train.processes > 1 else ''}")
    say(f"here: {quantity(facts.tokens / seconds)} tokens/s, {flops_text(rate)}")
    share = rate / meter.matmul_flops
    teacher = " and the teacher's" if recipe.objective.asks_teacher else ""
    told = f"{100 * share:.0f} %" if share <= 1 else f"an {UNKNOWN} share (the machine is busy: more than all)"
    say(f"here: {told} of {meter.yardstick()}")
    say(
        f"here: {duration(seconds)} for the whole training in one process, without the optimizer's own{teacher}; "
        f"cost {cost(recipe, seconds)}"
    )


def seconds_per_row(recipe: Recipe, device: str, precision: Precision) -> float:
    """Forward and backward of a row, from models of one and two layers; every further layer takes the same."""
    rows = max(1, 512 // recipe.shards.seq_len)
    batch = blank_batch(rows, recipe.shards.seq_len).to(device)
    batch.tokens_BT.random_(recipe.model.vocab_size, generator=torch.Generator(device).manual_seed(0))
    objective = build_objective(recipe.objective.stand_in())
    layers = (1, 2) if recipe.model.layers > 2 else (recipe.model.layers,)
    seconds = []
    for count in layers:
        model = build(recipe.model.model_copy(update={"layers": count}), 0).to(device)
        if recipe.train.lora is not None:
            attach_blank(model, recipe.train.lora)
        set_recompute(model, recipe.train.activation_checkpointing)
        working = working_copy(model, precision).model
        passes = []
        for _ in range(5):  # the first warms up
            began = time.perf_counter()
            with autocast(device, precision):
                loss = objective(working, batch)
            loss.nats_sum.backward()  # type: ignore[no-untyped-call]
            if device == "cuda":
                torch.cuda.synchronize()
            passes.append(time.perf_counter() - began)
        seconds.append(min(passes))
    further = max(seconds[-1] - seconds[0], 0.0) * (recipe.model.layers - len(layers))
    return (seconds[-1] + further) / rows


def memory_bytes(device: str) -> int:
    """Memory of the device; of the machine, where that is the CPU."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cost(recipe: Recipe, seconds: float) -> str:
    """The price of that time, where the recipe says what an hour costs."""
    price = recipe.train.price_per_hour
    return f"{price * seconds / 3600:,.2f}" if price else UNKNOWN


def main() -> None:
    """Plan what the recipe says."""
    command("plan", run, SHORTCUTS)


if __name__ == "__main__":
    main()
