"""One side of `bench_train.py` in a process of its own: builds a model and an optimizer, then steps when it is told to.

In: a JSON object as argument (side, shape, rows, length, threads, seconds of documents), then lines with a number of
steps. Out: per line the seconds of each step as JSON; on `end` the peak memory of the process, less what it took
before the model was built. The sides of LitGPT run in another environment, so nothing of this project is imported
at the top.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Shape = dict[str, Any]
Step = Callable[[], None]
LR, BETAS, DECAY, CLIP = 3e-4, (0.9, 0.95), 0.1, 1.0


def mixed(bf16: bool) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast, or nothing."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()


def tokens(shape: Shape, rows: int, length: int) -> Tensor:
    """The same random ids for all sides, one more a row than is predicted."""
    return torch.randint(0, shape["vocab_size"], (rows, length + 1), generator=torch.Generator().manual_seed(0))


def ours(shape: Shape, rows: int, length: int, options: dict[str, Any]) -> Step:
    """A step of this project's own pieces, as `slm.train.loop` puts them together."""
    from slm.core.allocator import keep_freed_memory
    from slm.core.batch import Batch
    from slm.model.config import ModelConfig
    from slm.model.transformer import build
    from slm.objective import build as build_objective
    from slm.objective.config import ObjectiveConfig
    from slm.train.config import OptimizerConfig
    from slm.train.optim import Optimizer
    from slm.train.precision import autocast

    keep_freed_memory()
    config = ModelConfig(**shape, max_seq_len=length)
    model, objective = build(config, 0), build_objective(ObjectiveConfig())
    optimizer = Optimizer(model, OptimizerConfig(lr=LR, weight_decay=DECAY), config)
    ids = tokens(shape, rows, length)
    documents, positions = drawn_documents(rows, length, options.get("mean_document_tokens", 0))
    targets = ids[:, 1:].contiguous()
    targets[:, :-1][documents[:, 1:] != documents[:, :-1]] = -100
    batch = Batch(ids[:, :-1].contiguous(), targets, documents, positions, int((targets != -100).sum()))
    precision = "bf16" if options.get("bf16") else "fp32"

    def step() -> None:
        with autocast("cpu", precision):  # type: ignore[arg-type]
            loss = objective(model, batch)
        (loss.nats_sum / batch.num_targets).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step(1.0)

    return step


def drawn_documents(rows: int, length: int, mean: int) -> tuple[Tensor, Tensor]:
    """Documents and positions of rows that hold documents of log-normal length around `mean`, or one each for 0."""
    if not mean:
        positions = torch.arange(length).expand(rows, length).contiguous()
        return torch.zeros(rows, length, dtype=torch.int32), positions
    generator = torch.Generator().manual_seed(1)
    documents = torch.zeros(rows, length, dtype=torch.int32)
    positions = torch.zeros(rows, length, dtype=torch.int64)
    for row in range(rows):
        begin = number = 0
        while begin < length:
            size = max(8, int(torch.randn((), generator=generator).mul(0.8).sub(0.32).exp() * mean))
            documents[row, begin : begin + size] = number
            positions[row, begin : begin + size] = torch.arange(min(size, length - begin))
            begin, number = begin + size, number + 1
    return documents, positions


def transformers_llama(shape: Shape, rows: int, length: int, options: dict[str, Any]) -> Step:
    """transformers' LlamaForCausalLM with SDPA and torch's fused AdamW."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape["vocab_size"], hidden_size=shape["width"], intermediate_size=shape["ffn_width"],
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"], max_position_embeddings=length, tie_word_embeddings=shape["tie_embeddings"],
        attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).train()
    ids = tokens(shape, rows, length)[:, :-1].contiguous()
    return their_step(model, lambda: model(input_ids=ids, labels=ids).loss, options)


def litgpt(shape: Shape, rows: int, length: int, options: dict[str, Any]) -> Step:
    """LitGPT's GPT as a Llama, with the loss function of its pretraining."""
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    config = Config(
        block_size=length, padded_vocab_size=shape["vocab_size"], n_layer=shape["layers"], n_head=shape["heads"],
        n_query_groups=shape["kv_heads"], head_size=shape["head_dim"], n_embd=shape["width"],
        intermediate_size=shape["ffn_width"], rotary_percentage=1.0, parallel_residual=False, bias=False,
        norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
    )  # fmt: skip
    model = GPT(config).train()
    if shape["tie_embeddings"]:
        model.lm_head.weight = model.transformer.wte.weight
    ids = tokens(shape, rows, length)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    compute = torch.compile(model) if options.get("compile") else model
    return their_step(model, lambda: chunked_cross_entropy(compute(inputs), targets), options)


def their_step(model: torch.nn.Module, loss: Callable[[], Tensor], options: dict[str, Any]) -> Step:
    """Forward, backward, clip, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY, fused=True)

    def step() -> None:
        with mixed(bool(options.get("bf16"))):
            value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def products(shape: Shape, rows: int, length: int, options: dict[str, Any]) -> Step:
    """The matrix products of one layer and of the head, forward and both of backward, and nothing else."""
    dtype = torch.bfloat16 if options.get("bf16") else torch.float32
    q_width, kv_width = shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    sizes = [
        (shape["width"], q_width + 2 * kv_width), (q_width, shape["width"]),
        (shape["width"], 2 * shape["ffn_width"]), (shape["ffn_width"], shape["width"]),
    ]  # fmt: skip
    sets = []
    for count, (fan_in, fan_out), num_tokens in [
        *((shape["layers"], size, rows * length) for size in sizes),
        (-(-rows * length // 1024), (shape["width"], shape["vocab_size"]), min(1024, rows * length)),
    ]:
        needed = ((num_tokens, fan_in), (fan_out, fan_in), (num_tokens, fan_out))
        sets.append((count, *(torch.randn(size).to(dtype) for size in needed)))

    def step() -> None:
        for count, inputs, weight, slope in sets:
            for _ in range(count):
                inputs @ weight.T
                slope @ weight
                slope.T @ inputs

    return step


def square(_shape: Shape, _rows: int, _length: int, options: dict[str, Any]) -> Step:
    """Ten products of square matrices of width 1,024, the yardstick of the progress line."""
    matrix = torch.randn(1024, 1024).to(torch.bfloat16 if options.get("bf16") else torch.float32)

    def step() -> None:
        for _ in range(10):
            matrix @ matrix

    return step


SIDES = {"ours": ours, "transformers": transformers_llama, "litgpt": litgpt, "products": products, "square": square}


def main() -> None:
    """Serve turns until the other end closes."""
    request = json.loads(sys.argv[1])
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = SIDES[request["side"]](request["shape"], request["rows"], request["length"], request["options"])
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock = time.process_time if request["cpu_seconds"] else time.perf_counter
    print(json.dumps({"ready": True, "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        seconds = []
        for _ in range(int(line)):
            began = clock()
            step()
            seconds.append(clock() - began)
        print(json.dumps(seconds), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"before_bytes": before * 1024, "built_bytes": imported * 1024, "peak_bytes": peak * 1024}))


if __name__ == "__main__":
    main()
