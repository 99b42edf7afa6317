"""Tokens a second and MFU of a training step on one device, beside that device's own matmul rate in the same run.

In: a recipe's shape, pretrain_300m at 2,048 tokens unless told otherwise, and how to compute it. Out: a few lines
and one JSON object as the last one. A step is what training does: forward and backward of each micro-batch (the
project's model, loss and kernels), clipping, the optimizer; only the tokens are random and already on the device.

FLOPs are those that the model needs for the documents as packed, by the printed formula: recomputation, the
loss's and the optimizer's own arithmetic and padding count for nothing, so no option can raise the rate by doing
more. `mfu` is their share of the data sheet, "unknown" for a device that slm/train/devices.py does not list;
`matmul_share` their share of the best product of square matrices measured just before and just after the steps.

    python scripts/bench_gpu.py --compile --micro-batch 16
    python scripts/bench_gpu.py --attention sdpa --activation-checkpointing selective --micro-batch 32
    python scripts/bench_gpu.py --device cpu --tiny --steps 3      # checks the script, says nothing about GPUs

Without a GPU it ends with status 2.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import torch

from slm.compose import load_recipe
from slm.core.batch import IGNORED, Batch
from slm.core.provenance import processor_name
from slm.model.block import set_compiled, set_recompute
from slm.model.counting import num_parameters
from slm.model.transformer import build
from slm.objective import build as build_objective
from slm.recipe import Recipe
from slm.train.devices import UNKNOWN, device_name
from slm.train.memory import blank_batch, predict_for
from slm.train.optim import Optimizer
from slm.train.plan import attention_backend
from slm.train.precision import autocast, resolve_precision
from slm.train.speed import Meter, flops_text, matmul_rate, type_name
from slm.train.working_copy import working_copy

TINY = ["model.width=64", "model.layers=2", "model.heads=2", "model.kv_heads=1", "model.head_dim=32",
        "model.ffn_width=128", "model.vocab_size=512", "tokenizer.vocab_size=512", "shards.seq_len=64"]  # fmt: skip
FORMULA = "a token: 6 x (matrices + head) + 12 x layers x heads x head_dim x keys it sees"


def arguments(words: list[str]) -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--recipe", default="pretrain_300m")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of 0.1M parameters, to check the script")
    parser.add_argument("--precision", choices=("fp32", "bf16", "bf16_weights"), default="bf16")
    parser.add_argument("--attention", choices=("auto", "sdpa", "flash_attn", "varlen", "flex"), default="auto")
    parser.add_argument("--activation-checkpointing", choices=("none", "selective", "full"), default="none")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--micro-batch", type=int, default=8, help="rows of a forward and backward")
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches of a step")
    parser.add_argument("--documents", type=int, default=1, help="documents of a row")
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them")
    parsed = parser.parse_args(words)
    for name in ("micro_batch", "accumulate", "documents", "steps"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name.replace('_', '-')} ({getattr(parsed, name)}) must be at least 1")
    return parsed


def recipe_of(asked: argparse.Namespace) -> Recipe:
    """The recipe whose training the step is one of; the same rules refuse what cannot be."""
    rows, accumulate = asked.micro_batch, asked.accumulate
    words = [f"recipe={asked.recipe}", *(TINY if asked.tiny else [])]
    seq_len = 64 if asked.tiny else load_recipe(*words).shards.seq_len
    return load_recipe(
        *words, f"train.device={asked.device}", f"train.precision={asked.precision}",
        f"model.attention={asked.attention}", f"train.activation_checkpointing={asked.activation_checkpointing}",
        f"train.compile={str(asked.compile).lower()}", f"train.micro_batch_rows={rows}",
        f"train.batch_tokens={rows * accumulate * seq_len}",
    )  # fmt: skip


def random_batch(rows: int, seq_len: int, documents: int, vocab_size: int, seed: int) -> Batch:
    """Rows of as many documents of equal length; the last token of each predicts nothing."""
    batch = blank_batch(rows, seq_len)
    generator = torch.Generator().manual_seed(seed)
    batch.tokens_BT.random_(vocab_size, generator=generator)
    numbers_T = torch.arange(seq_len) * documents // seq_len
    starts_T = torch.searchsorted(numbers_T, numbers_T)
    batch.documents_BT[:] = numbers_T
    batch.positions_BT[:] = torch.arange(seq_len) - starts_T
    ends_T = torch.ones(seq_len, dtype=torch.bool)
    ends_T[:-1] = numbers_T[1:] != numbers_T[:-1]
    batch.targets_BT[:] = batch.tokens_BT.roll(-1, 1).masked_fill(ends_T, IGNORED)
    batch.num_targets = int((batch.targets_BT != IGNORED).sum())
    return batch


class Step:
    """A training step of a recipe, ready to be repeated."""

    def __init__(self, recipe: Recipe, device: str, documents: int) -> None:
        config = recipe.train
        self.device, self.precision = device, resolve_precision(config, device)
        self.attention = str(attention_backend(recipe, device, self.precision))
        self.model = build(recipe.model, recipe.seed).to(device)
        set_recompute(self.model, config.activation_checkpointing)
        self.working = working_copy(self.model, self.precision)
        if config.compile:
            set_compiled(self.working.model)
        self.objective = build_objective(recipe.objective)
        self.optimizer = Optimizer(self.model, config.optimizer, recipe.model)
        rows, seq_len = int(config.micro_batch_rows), recipe.shards.seq_len
        count = config.batch_tokens // (rows * seq_len)
        self.batches = [random_batch(rows, seq_len, documents, recipe.model.vocab_size, n) for n in range(count)]
        self.placed = [batch.to(device) for batch in self.batches]
        self.targets = sum(batch.num_targets for batch in self.batches)

    def __call__(self) -> float:
        """Take the step; returns its seconds."""
        self._wait()
        began = time.perf_counter()
        model = self.working.refresh()
        for batch in self.placed:
            with autocast(self.device, self.precision):
                loss = self.objective(model, batch)
            (loss.nats_sum / self.targets).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(1.0)
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """All figures, as JSON values."""
    recipe = recipe_of(asked)
    step = Step(recipe, asked.device, asked.documents)
    first = step()  # compiles, allocates
    for _ in range(asked.warm_up):
        step()
    meter = Meter(recipe.model, asked.device, step.precision)
    seconds = []
    for _ in range(asked.steps):
        meter.add(step.batches)
        seconds.append(step())
    rates = meter.lap(sum(seconds))
    again = matmul_rate(asked.device, step.precision)
    matmul = max(meter.matmul_flops, again)
    flops = float(rates["model_flops_per_second"])
    rows = int(recipe.train.micro_batch_rows)
    predicted = predict_for(recipe, asked.device, step.precision, rows, rows * asked.accumulate).total
    return {
        "device": device_name(asked.device) if asked.device == "cuda" else processor_name(),
        "torch": torch.__version__,
        "options": vars(asked),
        "parameters": num_parameters(recipe.model),
        "seq_len": recipe.shards.seq_len,
        "attention": step.attention,
        "first_step_seconds": first,
        "step_seconds_median": statistics.median(seconds),
        "step_seconds_worst": max(seconds),
        "tokens_per_second": rates["tokens_per_second"],
        "model_flops_per_second": flops,
        "flops_formula": FORMULA,
        "matmul_flops_per_second": [meter.matmul_flops, again],
        "matmul_share": flops / matmul,
        "data_sheet_flops_per_second": meter.sheet_flops or UNKNOWN,
        "mfu": rates["mfu"],
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if asked.device == "cuda" else UNKNOWN,
        "predicted_memory_bytes": predicted,
    }


def main(words: list[str]) -> None:
    """Measure and print."""
    asked = arguments(words)
    if asked.device == "cuda" and not torch.cuda.is_available():
        print(
            "error: torch sees no GPU here, and this measures one; run it where there is one, or check the script "
            "with --device cpu --tiny",
            file=sys.stderr,
        )
        sys.exit(2)
    found = measure(asked)
    numbers = type_name(asked.precision)
    rate, share = flops_text(found["model_flops_per_second"]), 100 * found["matmul_share"]
    before, after = (flops_text(value) for value in found["matmul_flops_per_second"])
    sheet, mfu = found["data_sheet_flops_per_second"], found["mfu"]
    print(f"{found['parameters']:,} parameters on {found['device']}, torch {found['torch']}")
    print(f"attention by {found['attention']}; FLOPs of {FORMULA}")
    print(f"{found['tokens_per_second']:,.0f} tokens/s, {found['step_seconds_median'] * 1000:.1f} ms a step (median)")
    print(f"{rate}, {share:.1f} % of the {numbers} matmul rate here (before {before}, after {after})")
    print(f"MFU {mfu if mfu == UNKNOWN else f'{100 * mfu:.1f} %'} (data sheet "
          f"{sheet if sheet == UNKNOWN else flops_text(sheet)})")  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
