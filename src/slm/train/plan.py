"""What a run is going to be, worked out before it starts and printed: size, steps, cost, time, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from slm.core.console import duration, quantity, say, size
from slm.core.errors import UserError
from slm.model.backends import Choice, choose
from slm.model.counting import flops_per_token, num_parameters
from slm.recipe import Recipe
from slm.train.batch_ramp import step_tokens, stretches
from slm.train.config import TrainConfig
from slm.train.curriculum import shares
from slm.train.memory import optimizer_bytes, weight_bytes, weight_copy_bytes
from slm.train.precision import Precision, matmul_dtype
from slm.train.speed import Meter, flops_text

if TYPE_CHECKING:
    from slm.train.probe import Probe

FUSED = "training steps take products of blocks of queries instead, each block fused (slm.model.fused)"
MODULES = "blocks run module by module"


@dataclass(frozen=True, slots=True)
class Plan:
    """Derived facts. Tokens are positions; steps are whole, so `tokens` may exceed the recipe's by part of a step."""

    steps: int
    tokens: int
    batch_rows: int
    """Rows of a full step."""
    first_rows: int
    """Rows of the first step: fewer where steps grow, and then a divisor of every step's."""
    num_parameters: int
    flops: float


def plan(recipe: Recipe) -> Plan:
    """The facts that follow from a recipe alone; `UserError` where `train.max_flops` leaves no room for it."""
    config = recipe.train
    lengths = shares(config.curriculum, recipe.shards.seq_len)
    flops = sum(share * flops_per_token(recipe.model, length, config.lora) for length, share in lengths.items())
    parts = list(stretches(config))
    if config.max_flops and sum(steps * size for steps, size in parts) * flops > config.max_flops:
        parts = _within(config, int(config.max_flops / flops))
    tokens = sum(steps * size for steps, size in parts)
    return Plan(
        steps=sum(steps for steps, _ in parts),
        tokens=tokens,
        batch_rows=config.batch_tokens // recipe.shards.seq_len,
        first_rows=parts[0][1] // recipe.shards.seq_len,
        num_parameters=num_parameters(recipe.model),
        flops=tokens * flops,
    )


def _within(config: TrainConfig, tokens: int) -> list[tuple[int, int]]:
    """The stretches of whole steps that take at most `tokens`."""
    parts = list(stretches(config.model_copy(update={"tokens": max(1, tokens)})))
    if sum(steps * size for steps, size in parts) > tokens:
        steps, size = parts.pop()
        parts += [(steps - 1, size)] if steps > 1 else []
    least = max(config.schedule.warmup_tokens, step_tokens(config, 0))
    if sum(steps * size for steps, size in parts) < least:
        raise UserError(
            f"train.max_flops ({config.max_flops:.3g}) pays for {tokens:,} tokens, less than the warm-up or one step "
            f"({least:,}); raise it, or take a smaller model"
        )
    return parts


def attention_backend(recipe: Recipe, device: str, precision: Precision) -> Choice:
    """What will compute attention in training, and why; refused if the recipe asks for what cannot be."""
    return choose(recipe.model, torch.device(device), matmul_dtype(precision), training=True)


def blocks_by(recipe: Recipe, probed: Probe) -> str:
    """What computes the blocks in training, in words; the compiler comes only after the probe."""
    if recipe.train.compile:
        return "blocks compiled at the first step, after this forecast"
    return FUSED if probed.fused else MODULES


def step_sizes(recipe: Recipe) -> str:
    """How many tokens a step takes, in words."""
    ramp, full = recipe.train.batch_ramp, quantity(recipe.train.batch_tokens)
    if not ramp.start_tokens:
        return full
    return f"{quantity(ramp.start_tokens)}, growing to {full} over {quantity(ramp.ramp_tokens)} tokens"


def announce(
    recipe: Recipe, facts: Plan, device: str, precision: Precision, epochs: float, probed: Probe, meter: Meter
) -> None:
    """Print the facts, and what was `probed`, with the time that this leads to."""
    state = sum(weight_bytes(recipe.model, recipe.train.lora)) + weight_copy_bytes(recipe.model, precision)
    state += optimizer_bytes(recipe.model, recipe.train.optimizer.kind, recipe.train.lora)
    batch_tokens = recipe.train.batch_tokens
    whole = probed.step_seconds * facts.tokens / batch_tokens
    rate = facts.flops / whole
    lines = [
        f"{quantity(facts.num_parameters)} parameters ({recipe.model.layers} layers of width {recipe.model.width})",
        f"{quantity(facts.tokens)} tokens in {quantity(facts.steps)} steps of {step_sizes(recipe)}"
        f" ({epochs:.2f} epochs, {facts.tokens / facts.num_parameters:.1f} tokens per parameter)",
        f"{facts.flops:.3g} FLOPs, {precision} on {device} with {torch.get_num_threads()} threads",
        f"attention by {attention_backend(recipe, device, precision)}; {blocks_by(recipe, probed)}",
        f"about {duration(whole)} at {quantity(batch_tokens / probed.step_seconds)} tokens/s",
        f"{flops_text(rate)}, {100 * rate / meter.matmul_flops:.0f} % of {meter.yardstick()}",
        f"{size(state)} for weights, gradients and optimizer, activations on top",
    ]
    if recipe.train.curriculum.lengths:
        lengths = shares(recipe.train.curriculum, recipe.shards.seq_len).items()
        lines.append("rows of " + ", ".join(f"{n:,} tokens for {100 * share:.3g} %" for n, share in lengths))
    if facts.tokens < recipe.train.tokens:
        lines.append(
            f"ends before train.tokens ({recipe.train.tokens:,}): train.max_flops is {recipe.train.max_flops:.3g}"
        )
    for line in lines:
        say(f"train: {line}")
