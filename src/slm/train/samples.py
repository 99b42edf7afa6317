"""Continuations written during training, for the report: what the model says at step N."""

from __future__ import annotations

import torch

from slm.core.seeds import derive
from slm.model.cache import KVCache
from slm.model.transformer import Transformer
from slm.serve.config import ServeConfig
from slm.serve.sampling import Sampler
from slm.tokenizer import Tokenizer

SAMPLE_TOKENS = 96
TEMPERATURE = 0.7


@torch.inference_mode()
def continuation(model: Transformer, tokenizer: Tokenizer, prompt: str, seed: int, step: int) -> str:
    """A sampled continuation of `prompt`; the same seed, step and weights give the same text.

    Its generator is its own, so sampling never changes what the run trains on.
    """
    device = next(model.parameters()).device
    sampler = Sampler(ServeConfig(temperature=TEMPERATURE, seed=derive(seed, "sample", step, prompt)))
    ids = tokenizer.encode(prompt, bos=True)
    room = min(SAMPLE_TOKENS, model.config.max_seq_len - len(ids))
    cache = KVCache(model.config, 1, len(ids) + max(room, 1), torch.float32, str(device))
    fresh, written = ids, list[int]()
    for _ in range(room):
        logits_BTV = model(torch.tensor([fresh], device=device), cache=cache)
        token = sampler.pick(logits_BTV[0, -1], torch.tensor(ids + written))
        if token == tokenizer.eos_id:
            break
        written.append(token)
        fresh = [token]
    return tokenizer.decode(written)
