"""Learning rate as a share of its peak: a pure function of tokens seen, so that resuming needs no state."""

from __future__ import annotations

import math

from slm.train.config import ScheduleConfig


def lr_share(config: ScheduleConfig, tokens: float, total_tokens: int) -> float:
    """The factor on every peak learning rate after `tokens` of `total_tokens`, in [0, 1].

    Linear warm-up from 0, then: `wsd` holds 1 and falls linearly over the last `decay_fraction`; `cosine`
    and `linear` fall over all that is left; `constant` holds. All end at `final_lr_fraction`.
    """
    if tokens < config.warmup_tokens:
        return tokens / config.warmup_tokens
    final = config.final_lr_fraction
    if config.kind == "constant":
        return 1.0
    begin = float(config.warmup_tokens)
    if config.kind == "wsd":
        begin = max(begin, total_tokens * (1.0 - config.decay_fraction))
    if total_tokens <= begin:
        return 1.0
    progress = min(max((tokens - begin) / (total_tokens - begin), 0.0), 1.0)
    falling = 0.5 * (1.0 + math.cos(math.pi * progress)) if config.kind == "cosine" else 1.0 - progress
    return final + (1.0 - final) * falling
