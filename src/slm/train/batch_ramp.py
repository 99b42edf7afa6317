"""Small steps first: how many tokens a step takes, as a function of the tokens seen.

In: the recipe's training section and a number of tokens. Out: the tokens of the step that begins there, and
how many steps the whole training has. Steps grow linearly over the first `ramp_tokens` (GPT-3 did so, Brown
et al., arXiv 2005.14165, section 2.3; Llama 3 doubled twice), always in whole multiples of `start_tokens`:
were it multiples of micro-batch and processes, another machine would train on other steps. Sizes follow the
tokens of the schedule, so resuming needs no state, and a rewind takes them back with the weights.

The learning rate follows tokens, not steps, and is not scaled with the size of a step: whoever wants that
sets `schedule.warmup_tokens` or a lower peak. Growing costs one step that was not built ahead.
"""

from __future__ import annotations

from collections.abc import Iterator

from slm.train.config import TrainConfig


def step_tokens(config: TrainConfig, tokens: int) -> int:
    """Positions in the step that begins after `tokens`."""
    ramp = config.batch_ramp
    if not ramp.start_tokens or tokens >= ramp.ramp_tokens:
        return config.batch_tokens
    further = config.batch_tokens // ramp.start_tokens - 1
    return ramp.start_tokens * (1 + further * tokens // ramp.ramp_tokens)


def stretches(config: TrainConfig) -> Iterator[tuple[int, int]]:
    """The whole training as (number of steps, positions in each), in order; together at least `tokens`."""
    tokens = 0
    while tokens < config.tokens:
        size = step_tokens(config, tokens)
        steps = -(-(min(_next_growth(config, size), config.tokens) - tokens) // size)
        yield steps, size
        tokens += steps * size


def _next_growth(config: TrainConfig, size: int) -> int:
    """After how many tokens steps become larger than `size`."""
    ramp = config.batch_ramp
    if size == config.batch_tokens:
        return config.tokens
    further = config.batch_tokens // ramp.start_tokens - 1
    return -(-(size // ramp.start_tokens) * ramp.ramp_tokens // further)
