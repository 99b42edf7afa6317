"""What keeping keys and values as 8-bit integers costs and saves, on a trained run's held-out text.

    python scripts/bench_kv_cache.py recipe=quickstart [serve.kv_cache=…] [any setting of the run]

In: the recipe of a run with a checkpoint. Out: memory a token and of a whole context, as computed and as the cache's
buffers weigh; the rise in bits per byte with its interval, KL and the likeliest token, with the whole text read
through the int8 cache; greedy continuations side by side; tokens a second at a full context; and the error of keys and
values themselves, symmetric and with zero points. Last line: one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

import torch
from torch import Tensor

from slm.compose import load_recipe
from slm.compress.measure import answers, compare
from slm.compress.stage import held_out
from slm.core.console import table
from slm.core.seeds import derive
from slm.model.cache import KVCache, quantized
from slm.model.load import load_model
from slm.model.transformer import Transformer
from slm.recipe import Recipe
from slm.serve.engine import Engine
from slm.tokenizer.tokenizer import Tokenizer

CONTINUATIONS = 20
PROMPT_TOKENS = 32
CONTINUED_TOKENS = 64
DECODED_TOKENS = 64


def main() -> None:
    recipe = load_recipe(*sys.argv[1:])
    torch.set_num_threads(recipe.serve.threads)
    model = load_model(recipe.artifact("train").path, attention="sdpa").eval()
    parents = {stage: recipe.artifact(stage) for stage in ("corpus", "tokenizer", "shards")}
    text = held_out(recipe, parents)
    reference = answers(model, text, recipe.compress.positions)
    found = answers(model, text, recipe.compress.positions, kv_cache="int8")
    cost = compare(reference, found, text, derive(recipe.seed, "bootstrap"))
    config, size = model.config, model.config.max_seq_len
    floats, integers = (KVCache(config, 1, size, dtype).num_bytes for dtype in (torch.float32, torch.int8))
    numbers = 2 * config.layers * config.kv_heads
    assert floats == numbers * size * config.head_dim * 4
    assert integers == numbers * size * (config.head_dim + 2)
    seconds = {name: decoding_seconds(model, size, dtype) for name, dtype in
               (("float32", torch.float32), ("int8", torch.int8))}  # fmt: skip
    errors = {f"{what}, {how}": error for what, how, error in grid_errors(model, text.ids[0])}
    equal, first = greedy(recipe, [ids.tolist() for ids in text.ids])
    result = {
        "bytes_per_token": {"float32": floats // size, "int8": integers // size}, "context_tokens": size,
        **{name: value for name, value in asdict(cost).items() if name != "bits_per_byte"},
        "greedy_equal": equal, "greedy_asked": min(CONTINUATIONS, len(text.ids)), "greedy_first_difference": first,
        "ms_per_token": {name: 1000 * value for name, value in seconds.items()}, "relative_rms_error": errors,
    }  # fmt: skip
    low, high = cost.interval_95
    table("An int8 cache beside one in float32", ("what", "float32", "int8"), [
        ("bytes a token", f"{floats // size:,}", f"{integers // size:,} ({integers / floats:.3f})"),
        (f"bytes of {size:,} tokens", f"{floats:,}", f"{integers:,}"),
        ("Δ bits/byte", "0", f"{cost.increase:+.6f} ({low:+.6f} to {high:+.6f})"),
        ("mean KL, nats", "0", f"{cost.mean_kl:.2e} over {cost.positions} positions"),
        ("same likeliest token", "", f"{100 * cost.top1_agreement:.1f} %"),
        (f"greedy, {CONTINUED_TOKENS} tokens", "", f"{equal} of {min(CONTINUATIONS, len(text.ids))} equal"),
        (f"ms a token at {size:,}", *(f"{1000 * value:.2f}" for value in seconds.values())),
    ])  # fmt: skip
    table("Relative error of what is kept", ("what", "root mean square"), [(n, f"{e:.5f}") for n, e in errors.items()])
    print(json.dumps(result))


@torch.inference_mode()
def decoding_seconds(model: Transformer, size: int, dtype: torch.dtype) -> float:
    """The fastest of many steps of one token behind a context that is nearly full."""
    cache = KVCache(model.config, 1, size, dtype)
    ids = torch.arange(size).remainder(model.config.vocab_size).unsqueeze(0)
    model.hidden(ids[:, :-DECODED_TOKENS], cache=cache)
    seconds = []
    for place in range(size - DECODED_TOKENS, size):
        began = time.perf_counter()
        model.hidden(ids[:, place : place + 1], cache=cache)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@torch.inference_mode()
def grid_errors(model: Transformer, ids: object) -> list[tuple[str, str, float]]:
    """The error of keys and values over one document, over their own root mean square."""
    tokens = torch.as_tensor(ids)[: model.config.max_seq_len].long().unsqueeze(0)
    cache = KVCache(model.config, 1, tokens.shape[1])
    model.hidden(tokens, cache=cache)
    found = []
    for what, kept in (("keys", cache.keys_LBSHD), ("values", cache.values_LBSHD)):
        values, scales = quantized(kept)
        symmetric = values * scales.float().unsqueeze(-1)
        for how, other in (("symmetric", symmetric), ("with a zero point", with_zero_point(kept))):
            found.append((what, how, float((other - kept).square().mean().sqrt() / kept.square().mean().sqrt())))
    return found


def with_zero_point(kept: Tensor) -> Tensor:
    """What 256 even steps from the smallest to the largest number of each head stand for, two float16 a head."""
    low = kept.amin(-1, keepdim=True).half().float()
    step = ((kept.amax(-1, keepdim=True) - low) / 255).clamp(min=2.0**-24).half().float()
    return ((kept - low) / step).round().clamp(0, 255) * step + low


def greedy(recipe: Recipe, documents: list[list[int]]) -> tuple[int, list[int]]:
    """How many continuations of held-out beginnings are equal, and after how many characters the others part."""
    tokenizer = Tokenizer.load(recipe.artifact("tokenizer").path)
    prompts = [tokenizer.decode(ids[1 : 1 + PROMPT_TOKENS]) for ids in documents[:CONTINUATIONS]]
    texts = []
    with Engine.open("", recipe) as engine:
        for kind in ("float", "int8"):
            how = {"kv_cache": kind, "temperature": 0.0, "max_tokens": CONTINUED_TOKENS, "repetition_penalty": 1.0}
            settings = recipe.serve.model_copy(update=how)
            texts.append(["".join(engine.generate(prompt, settings)) for prompt in prompts])
    pairs = [(one, other) for one, other in zip(*texts, strict=True) if one != other]
    return len(prompts) - len(pairs), [equal_characters(*pair) for pair in pairs]


def equal_characters(one: str, other: str) -> int:
    """How far two texts are the same."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(map(len, (one, other)))
    )


if __name__ == "__main__":
    main()
