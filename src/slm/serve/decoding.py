"""One token after another: what back ends share that compute logits and leave the rest to us.

In: a function that reads tokens, a vocabulary, a prompt. Out: text pieces as the engine passes them on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from slm.serve.sampling import Sampler
from slm.serve.stream import StopStream

if TYPE_CHECKING:
    from torch import Tensor

    from slm.serve.config import ServeConfig
    from slm.serve.engine import FinishReason, Pieces
    from slm.serve.vocabulary import Vocabulary

Read = Callable[[Sequence[int]], "Tensor"]
"""Reads tokens after those read before; gives the logits [V] of what follows the last."""


def continued(read: Read, vocabulary: Vocabulary, ids: Sequence[int], max_tokens: int, settings: ServeConfig) -> Pieces:
    """Text pieces of the continuation of `ids`; a token that completes no text gives an empty piece."""
    sampler, stops, decoder = Sampler(settings), StopStream(settings.stop), vocabulary.decoder()
    seen = list(ids)
    logits_V = read(ids)
    reason: FinishReason = "length"
    while len(seen) < len(ids) + max_tokens:
        token = sampler.pick(logits_V, torch.tensor(seen))
        seen.append(token)
        if token in vocabulary.end_ids:
            reason = "stop"
            break
        yield stops.push(decoder.push(token))
        if stops.stopped:
            return "stop", len(seen) - len(ids)
        if len(seen) < len(ids) + max_tokens:
            logits_V = read([token])
    yield stops.push(decoder.finish()) + stops.finish()
    return "stop" if stops.stopped else reason, len(seen) - len(ids)
