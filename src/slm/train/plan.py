"""What a run is going to be, worked out before it starts and printed: size, steps, cost, time, memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from slm.core.console import duration, quantity, say, size
from slm.model.counting import flops_per_token, num_parameters
from slm.recipe import Recipe
from slm.train.memory import optimizer_bytes
from slm.train.speed import Meter, flops_text


@dataclass(frozen=True, slots=True)
class Plan:
    """Derived facts. Tokens are positions; steps are whole, so `tokens` may exceed the recipe's by part of a step."""

    steps: int
    tokens: int
    batch_rows: int
    num_parameters: int
    flops: float


def plan(recipe: Recipe) -> Plan:
    """The facts that follow from a recipe alone."""
    steps = -(-recipe.train.tokens // recipe.train.batch_tokens)
    tokens = steps * recipe.train.batch_tokens
    return Plan(
        steps=steps,
        tokens=tokens,
        batch_rows=recipe.train.batch_tokens // recipe.shards.seq_len,
        num_parameters=num_parameters(recipe.model),
        flops=float(flops_per_token(recipe.model, recipe.shards.seq_len)) * tokens,
    )


def announce(
    recipe: Recipe, facts: Plan, device: str, precision: str, epochs: float, seconds: float, meter: Meter
) -> None:
    """Print the facts, with the time that `seconds` for one step leads to."""
    state = facts.num_parameters * 8 + optimizer_bytes(recipe.model, recipe.train.optimizer.kind)
    rate = facts.flops / facts.steps / seconds
    lines = [
        f"{quantity(facts.num_parameters)} parameters ({recipe.model.layers} layers of width {recipe.model.width})",
        f"{quantity(facts.tokens)} tokens in {quantity(facts.steps)} steps of {quantity(recipe.train.batch_tokens)}"
        f" ({epochs:.2f} epochs, {facts.tokens / facts.num_parameters:.1f} tokens per parameter)",
        f"{facts.flops:.3g} FLOPs, {precision} on {device} with {torch.get_num_threads()} threads",
        f"about {duration(seconds * facts.steps)} at {quantity(recipe.train.batch_tokens / seconds)} tokens/s",
        f"{flops_text(rate)}, {100 * rate / meter.matmul_flops:.0f} % of {meter.yardstick()}",
        f"{size(state)} for weights, gradients and optimizer, activations on top",
    ]
    for line in lines:
        say(f"train: {line}")
