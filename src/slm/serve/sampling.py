"""Logits to the next token: pure functions, in the order of Hugging Face's `generate`.

In: logits of one position, `logits_V`, or of a batch, `logits_BV`, float32. Out: logits in which what may
not be drawn is -inf, or the drawn ids. Order: repetition penalty, temperature, top-k, top-p, min-p, and
among what is left a draw from a seeded generator. llama.cpp by default scales by the temperature last,
which keeps other tokens at the same settings; the GGUF back end asks it for this order instead.

Draws happen on the CPU in float32, so a seed means the same draw wherever the logits were computed. The
full sort of top-p costs about 2 ms at 32,768 entries, 0.4 ms where top-k has masked most; it runs over all
entries, because a fixed shape keeps one rule for one row and for many.

Shapes: B sequences, V vocabulary, T tokens so far.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slm.core.errors import DamagedError
from slm.serve.config import ServeConfig

SMALLEST_TEMPERATURE = 1e-6
"""Smaller ones would overflow float32 after the division; here the draw is greedy but for exact ties."""


class Sampler:
    """Draws tokens one after another; equal settings and seeds give equal draws from equal logits."""

    def __init__(self, settings: ServeConfig) -> None:
        self.settings = settings
        self.generator = torch.Generator().manual_seed(settings.seed)

    def pick(self, logits_V: Tensor, seen_T: Tensor) -> int:
        """The next token after the tokens `seen_T`, prompt included."""
        settings = self.settings
        logits_V = penalise_repetition(logits_V.float().cpu(), seen_T.cpu(), settings.repetition_penalty)
        if settings.temperature == 0:
            return int(greedy(logits_V))
        kept_V = scale_temperature(logits_V, settings.temperature)
        kept_V = keep_top_k(kept_V, settings.top_k)
        kept_V = keep_top_p(kept_V, settings.top_p)
        kept_V = keep_min_p(kept_V, settings.min_p)
        return int(draw(kept_V, self.generator))


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that occur in `seen` less likely: positive logits divided, negative multiplied (CTRL, 1909.05858)."""
    if penalty == 1 or seen.shape[-1] == 0:
        return logits
    chosen = logits.gather(-1, seen)
    return logits.scatter(-1, seen, torch.where(chosen < 0, chosen * penalty, chosen / penalty))


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Sharpen (below 1) or flatten (above 1) the distribution."""
    return logits / max(temperature, SMALLEST_TEMPERATURE)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k likeliest, and all that tie with the last of them; 0 keeps all."""
    if k == 0:
        return logits
    last = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < last, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens that holds at least probability p; 1 keeps all."""
    if p == 1:
        return logits
    ascending, order = logits.sort(dim=-1)
    dropped = ascending.softmax(-1).cumsum(-1) <= 1 - p
    dropped[..., -1] = False  # the likeliest stays, however small p is
    return logits.masked_fill(dropped.scatter(-1, order, dropped), -torch.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Drop what is less likely than p times the likeliest (2407.01082); 0 keeps all."""
    if p == 0:
        return logits
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -torch.inf)


def greedy(logits: Tensor) -> Tensor:
    """The likeliest token of each row, the first where several tie."""
    _require_finite(logits)
    return logits.argmax(-1)


def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One token of each row, with the probabilities that its logits give."""
    _require_finite(logits)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)


def _require_finite(logits: Tensor) -> None:
    if not bool(logits.amax(-1).isfinite().all()):
        raise DamagedError(
            f"the model's next-token logits are {float(logits.amax()):.0f} instead of finite numbers; its weights are "
            "damaged or it diverged in training, so take an earlier checkpoint"
        )
