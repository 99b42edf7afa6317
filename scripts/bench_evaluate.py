"""How fast choice tasks are scored beside lm-eval's own `hf` model: the same items, weights, precision and interface.

In: files of HellaSwag's and ARC-Easy's layout (`--hellaswag`, `--arc`), or made-up items of their lengths, a tokenizer,
and the shape of a model with fresh weights (speed does not depend on what they are). Both sides are asked through
lm-eval's `loglikelihood`, text in and numbers out, in float32; `hf` opens our export. Its batch size is the fastest of
`--batch-sizes` on a part of the items, ours is the default; then both score all items in turns, so that a machine
that slows down slows both. Beside them the candidates of one canary's exposure, by `slm.safety.memory` and each as a
whole row. Out: a table, and one JSON object as the last line; fails where a likelihood differs by more than 1e-4 per
token or the ratio is below `--at-least`.

    python scripts/bench_evaluate.py --tokenizer runs/quickstart/tokenizer --hellaswag H.jsonl --arc A.jsonl
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from slm.compose import read_yaml, shipped_folder
from slm.core.console import table
from slm.core.provenance import processor_name
from slm.evaluate.config import EvaluateConfig
from slm.evaluate.score import token_nats
from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.config import TaskConfig
from slm.evaluate.tasks.items import read
from slm.evaluate.tasks.layouts import Item
from slm.model.config import ModelConfig
from slm.model.hugging_face import save_pretrained
from slm.model.transformer import Transformer, build
from slm.tokenizer.hugging_face import write_hugging_face
from slm.tokenizer.tokenizer import Tokenizer

WORDS = "the of water a person holds energy rope in which and plant kitchen moves light carbon down smile"
CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time
"""On a CPU the processor's own time, all threads together: what else runs there hardly changes it."""
MADE = {"hellaswag": (38, 22), "query": (21, 4)}
"""Mean words of a context and of a choice, as in HellaSwag and ARC-Easy."""


def made_items(layout: str, count: int) -> list[Item]:
    """Items of a layout's lengths, of random words."""
    source = random.Random(layout)

    def words(mean: int) -> str:
        return " ".join(source.choice(WORDS.split()) for _ in range(max(1, int(source.gauss(mean, mean / 3)))))

    context, choice = MADE[layout]
    return [Item(words(context), tuple(f" {words(choice)}" for _ in range(4)), 0) for _ in range(count)]


def pairs_of(layout: str, path: str, count: int) -> list[tuple[str, str]]:
    """Context and choice, in the items' order."""
    items = made_items(layout, count)
    if path:
        config = TaskConfig(name=layout, layout=layout, path=path, max_items=count)  # type: ignore[arg-type]
        items = [one.item for one in read(config, None)]
    return [(item.prompt, choice) for item in items for choice in item.choices]


def instances(pairs: list[tuple[str, str]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]


def ours(model: Transformer, tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> tuple[float, list[float]]:
    """Seconds and likelihoods of our scorer, with nothing remembered."""
    from slm.evaluate.harness import HarnessModel

    began = CLOCK()
    scorer = Scorer(model, tokenizer, EvaluateConfig().batch_tokens, shown=False)
    found = HarnessModel(scorer).loglikelihood(instances(pairs))
    return CLOCK() - began, [logprob for logprob, _ in found]


def theirs(harness: Any, batch_size: int, pairs: list[tuple[str, str]]) -> tuple[float, list[float]]:
    """Seconds and likelihoods of lm-eval's `hf` at a batch size."""
    harness.batch_size_per_gpu = batch_size
    began = CLOCK()
    found = harness.loglikelihood(instances(pairs), disable_tqdm=True)
    return CLOCK() - began, [logprob for logprob, _ in found]


def measure(
    name: str, model: Transformer, tokenizer: Tokenizer, harness: Any, pairs: Any, words: Any
) -> dict[str, Any]:
    """Both sides on one task."""
    part = pairs[: max(8, len(pairs) // 4)]
    ours(model, tokenizer, part[:8])
    by_size = {size: theirs(harness, size, part)[0] for size in words.batch_sizes}
    best = min(by_size, key=lambda size: by_size[size])
    rounds = [(ours(model, tokenizer, pairs), theirs(harness, best, pairs)) for _ in range(words.rounds)]
    mine, other = rounds[0][0][1], rounds[0][1][1]
    per_token = [
        abs(a - b) / max(1, len(tokenizer.encode(choice))) for a, b, (_, choice) in zip(mine, other, pairs, strict=True)
    ]
    return {
        "task": name,
        "requests": len(pairs),
        "hf_batch_size": best,
        "hf_seconds": statistics.median(one[1][0] for one in rounds),
        "our_seconds": statistics.median(one[0][0] for one in rounds),
        "ratio": statistics.median(one[1][0] / one[0][0] for one in rounds),
        "largest_difference": max(per_token),
    }


@torch.inference_mode()
def whole_rows(model: Transformer, tokenizer: Tokenizer, prefix: str, secrets: list[str]) -> list[float]:
    """Likelihoods of secrets after a prefix, each row computed whole, 64 at a time; only secrets are projected."""
    before = len(tokenizer.encode(prefix, bos=True))
    rows = [tokenizer.encode(prefix + secret, bos=True) for secret in secrets]
    found: list[float] = []
    for start in range(0, len(rows), 64):
        some = rows[start : start + 64]
        longest = max(map(len, some))
        ids_NT = torch.tensor([row + [0] * (longest - len(row)) for row in some], device=model.head_weight.device)
        places = [(n, place) for n, row in enumerate(some) for place in range(before - 1, len(row) - 1)]
        rows_M, columns_M = torch.tensor(places, device=ids_NT.device).T
        nats_M = token_nats(model, model.hidden(ids_NT[:, :-1])[rows_M, columns_M], ids_NT[rows_M, columns_M + 1])
        found += (-torch.bincount(rows_M, nats_M.double(), len(some))).tolist()
    return found


def exposure(model: Transformer, tokenizer: Tokenizer, rounds: int) -> dict[str, Any]:
    """Both ways on one canary and 511 random secrets of its form."""
    from slm.corpus.config import CanariesConfig
    from slm.corpus.sources.canaries import canaries
    from slm.safety.memory import secret_nats

    (one, *_), draw = canaries(CanariesConfig()), random.Random(0)
    secrets = [one.secret, *("".join(draw.choices("0123456789", k=len(one.secret))) for _ in range(511))]
    times, nats, expected = [], None, None
    for _ in range(rounds):
        began = CLOCK()
        nats = secret_nats(model, tokenizer, one.prefix, secrets)
        between = CLOCK()
        expected = whole_rows(model, tokenizer, one.prefix, secrets)
        times.append((CLOCK() - between, between - began))
    assert nats is not None
    assert expected is not None
    return {
        "task": "exposure of a canary",
        "requests": len(secrets),
        "hf_batch_size": "whole rows, 64",
        "hf_seconds": statistics.median(theirs for theirs, _ in times),
        "our_seconds": statistics.median(mine for _, mine in times),
        "ratio": statistics.median(theirs / mine for theirs, mine in times),
        "largest_difference": max(abs(a + b) for a, b in zip(nats, expected, strict=True)) / len(one.secret),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=Path("runs/quickstart/tokenizer"))
    parser.add_argument("--model", default="15m", help="a shape of configs/model")
    parser.add_argument("--vocab-size", type=int, default=0, help="rows of the head; 0 takes the tokenizer's")
    parser.add_argument("--hellaswag", default="", help="file; made-up items without it")
    parser.add_argument("--arc", default="", help="file in llm-foundry's form; made-up items without it")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--at-least", type=float, default=0.0)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    logging.disable(logging.WARNING)
    from lm_eval.models.huggingface import HFLM

    tokenizer = Tokenizer.load(words.tokenizer)
    shape = read_yaml(shipped_folder("configs") / "model" / f"{words.model}.yaml")
    model = build(ModelConfig(**{**shape, "vocab_size": words.vocab_size or tokenizer.vocab_size}), 0).eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
        save_pretrained(model, Path(folder), **ids)
        write_hugging_face(tokenizer, Path(folder))
        harness = HFLM(pretrained=folder, device=device, dtype="float32", batch_size=1, logits_cache=False)
        model.to(device)
        files = {"hellaswag": ("hellaswag", words.hellaswag), "arc_easy": ("query", words.arc)}
        found = [
            measure(name, model, tokenizer, harness, pairs_of(layout, path, words.items), words)
            for name, (layout, path) in files.items()
        ]
        found.append(exposure(model, tokenizer, words.rounds))
    count = sum(parameter.numel() for parameter in model.parameters())
    where = processor_name() if device == "cpu" else torch.cuda.get_device_name()
    shown = f"{count / 1e6:.1f}M parameters, vocabulary {model.config.vocab_size:,}"
    title = f"{shown}, float32, {words.threads} thread(s) of {where}"
    columns = ("task", "requests", "hf's best batch", "hf s", "ours s", "times as fast", "largest difference a token")
    table(title, columns, [tuple(one.values()) for one in found])
    print(json.dumps({"device": where, "parameters": count, "made_up": not words.hellaswag, "tasks": found}))
    wrong = [one for one in found if one["largest_difference"] > 1e-4 or one["ratio"] < words.at_least]
    if wrong:
        sys.exit(f"error: {', '.join(one['task'] for one in wrong)}: too slow, or the likelihoods differ")


if __name__ == "__main__":
    main()
