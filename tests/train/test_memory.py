"""Predicted memory against what torch's allocator really handed out."""

from __future__ import annotations

import contextlib
import gc
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from slm.compose import load_recipe
from slm.core.distributed import session
from slm.model import block
from slm.model.block import set_fused, set_recompute
from slm.model.config import LoraConfig, ModelConfig
from slm.model.lora import attach, bytes_held, fresh
from slm.model.recompute import Recompute
from slm.model.transformer import Transformer, build
from slm.objective import build as build_objective
from slm.objective.config import ObjectiveConfig
from slm.objective.distill import build as build_distill
from slm.train import memory
from slm.train.averaging import average_of, follow
from slm.train.config import OptimizerConfig, TrainConfig
from slm.train.memory import blank_batch, divisors, largest_that_fits, optimizer_bytes, predict, predict_for
from slm.train.optim import Optimizer
from slm.train.parallel import Parallel, choose, local
from slm.train.working_copy import working_copy

ALONE = Parallel()
SMALL = {"heads": 4, "head_dim": 32, "ffn_width": 256, "width": 128}
SHAPES = {
    "deep": ModelConfig(**SMALL, vocab_size=512, layers=6, kv_heads=2, max_seq_len=128),
    "long": ModelConfig(**SMALL, vocab_size=512, layers=2, kv_heads=4, max_seq_len=512, qk_norm=True),
    "vocabulary": ModelConfig(**SMALL, vocab_size=8192, layers=2, kv_heads=1, max_seq_len=128, tie_embeddings=False),
    "wide": ModelConfig(
        vocab_size=1024, width=384, layers=3, heads=6, kv_heads=2, head_dim=64, ffn_width=1024, max_seq_len=256
    ),
}


def measured_peak(
    config: ModelConfig, rows: int, precision: str, recompute: Recompute = "none", fused: bool = True
) -> int:
    """The most bytes that torch's CPU allocator had out during a second micro-batch, with weights and gradients."""
    objective, model = build_objective(ObjectiveConfig()), build(config, 0)
    set_recompute(model, recompute)
    set_fused(model, fused)
    working = working_copy(model, precision)
    batch = blank_batch(rows, config.max_seq_len)
    batch.documents_BT[:, -1] = 1  # packed, and so that no block of queries is spared its first keys

    def once() -> None:
        with torch.autocast("cpu", torch.bfloat16) if precision != "fp32" else contextlib.nullcontext():
            loss = objective(working.refresh(), batch)
        loss.nats_sum.backward()

    once()
    standing = sum(p.nbytes + p.grad.nbytes for p in model.parameters() if p.grad is not None)
    standing += sum(p.nbytes for p in working.model.parameters()) if working.model is not model else 0
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        once()
    now = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    assert peak > 0
    return standing + peak


@pytest.mark.filterwarnings("ignore")  # the profiler's own, about its clock
@pytest.mark.parametrize(
    ("name", "precision"),
    [*itertools.product(SHAPES, ["fp32", "bf16"]), ("deep", "bf16_weights"), ("vocabulary", "bf16_weights")],
)
def test_predicted_memory_is_within_a_tenth_of_measured(name, precision):
    config = SHAPES[name]
    for rows in (1, 8):
        use = predict(config, ObjectiveConfig(), "adamw", precision, rows, config.max_seq_len)
        assert use.total - use.optimizer - use.update == pytest.approx(measured_peak(config, rows, precision), rel=0.1)
        assert min(use.weights, use.gradients, use.logits, use.activations) > 0


def measured_step(
    config: ModelConfig,
    rows: int,
    precision: str,
    kind: str,
    ema_decay: float,
    parallel: Parallel = ALONE,
    lora: LoraConfig | None = None,
    teacher: Transformer | None = None,
) -> int:
    """The most bytes that torch's CPU allocator had out during a whole second step, with all that stands by then."""
    objective, batch = build_objective(ObjectiveConfig()), blank_batch(rows, config.max_seq_len)
    if teacher is not None:
        objective = build_distill(DISTILL, teacher)
    batch.documents_BT[:, -1] = 1
    model = build(config, 0)
    if lora is not None:
        attach(model, fresh(model, lora, 0))
    average = parallel.distribute(average_of(model)) if ema_decay else None
    optimizer = Optimizer(parallel.distribute(model), OptimizerConfig(kind=kind))

    def once(step: int) -> None:
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext():
                loss = objective(model, batch)
            loss.nats_sum.backward()
            del loss
        parallel.reduce_gradients(model)
        parallel.clip(model, 1.0)
        optimizer.step(1.0)
        if average is not None:
            follow(average, model, ema_decay, step)

    once(0)
    gc.collect()
    held = [*model.parameters(), *(average.parameters() if average else ()), *optimizer.state_tensors().values()]
    held += teacher.parameters() if teacher is not None else ()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        once(1)
    now = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    codes = bytes_held(model)[0] - sum(parameter.nbytes for parameter in model.parameters())
    return peak + codes + sum(tensor.nbytes for tensor in local(held))


@pytest.mark.filterwarnings("ignore")  # the profiler's own, about its clock
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("rows", "precision", "kind", "ema_decay"),
    [(1, "fp32", "muon", 0.9), (4, "bf16", "adamw", 0.9)],
)
def test_memory_of_whole_steps_is_within_a_tenth_of_measured(name, rows, precision, kind, ema_decay):
    config = SHAPES[name]
    use = predict(config, ObjectiveConfig(), kind, precision, rows, config.max_seq_len, average=bool(ema_decay))
    assert use.total == pytest.approx(measured_step(config, rows, precision, kind, ema_decay), rel=0.1)
    assert use.average == (use.weights if ema_decay else 0)
    assert use.gathered == 0


@pytest.mark.filterwarnings("ignore")  # the profiler's own, about its clock
@pytest.mark.parametrize("name", ["deep", "wide"])
@pytest.mark.parametrize("lora", [{"rank": 8}, {"rank": 4, "dora": True}, {"base": "int4"}, {"base": "nf4"}], ids=str)
def test_beside_frozen_weights_only_adapters_take_gradients_and_moments(name, lora):
    config, how = SHAPES[name], LoraConfig.model_validate(lora)
    use = predict(config, ObjectiveConfig(), "adamw", "fp32", 2, config.max_seq_len, lora=how)
    assert use.total == pytest.approx(measured_step(config, 2, "fp32", "adamw", 0.0, lora=how), rel=0.1)
    whole = predict(config, ObjectiveConfig(), "adamw", "fp32", 2, config.max_seq_len)
    assert use.gradients * 2 == use.optimizer < 0.3 * whole.optimizer
    assert (use.weights < whole.weights) == (how.base != "float")


DISTILL = ObjectiveConfig.model_validate({"kind": "distill", "distill": {"teacher": "beside", "divergence": "jsd"}})


@pytest.mark.filterwarnings("ignore")  # the profiler's own, about its clock
@pytest.mark.parametrize(
    ("student", "master", "rows", "precision"),
    [("deep", {"width": 256, "head_dim": 64, "layers": 3}, 4, "bf16"), ("vocabulary", {"layers": 4}, 8, "fp32")],
)
def test_a_teacher_beside_takes_its_weights_and_what_its_forward_needs(monkeypatch, student, master, rows, precision):
    config = SHAPES[student]
    shape = config.model_copy(update=master)
    monkeypatch.setattr(memory, "_teacher_of", lambda _: shape)
    use = predict(config, DISTILL, "adamw", precision, rows, config.max_seq_len)
    teacher = build(shape, 1).requires_grad_(False)
    assert use.teacher == sum(parameter.nbytes for parameter in teacher.parameters())
    assert use.total == pytest.approx(measured_step(config, rows, precision, "adamw", 0.0, teacher=teacher), rel=0.1)
    spread = DISTILL.distill.model_copy(update={"teacher_memory_bytes": {"cpu": 1000, "0": 5000}})
    assert memory.teacher_bytes(DISTILL.model_copy(update={"distill": spread})) == 5000


SHARED = {
    "deep": (1, "fp32", "adamw", 0.9, "full_shard"),
    "long": (4, "bf16", "adamw", 0.0, "full_shard"),
    "vocabulary": (1, "bf16", "adamw", 0.0, "shard_grad_op"),
    "wide": (1, "fp32", "adamw", 0.0, "ddp"),
}


def each_of_two() -> None:
    """What each of two processes runs: the first prints what was predicted for it, what it measured, what it fused."""
    fused, original = [], block.fused_block
    block.fused_block = lambda *given: fused.append(given) or original(*given)
    with session("cpu") as world:
        for name, (rows, precision, kind, ema_decay, strategy) in SHARED.items():
            parallel, config = choose(TrainConfig(parallel=strategy), world), SHAPES[name]
            asked = (config, ObjectiveConfig(), kind, precision, rows, config.max_seq_len)
            use = predict(*asked, average=bool(ema_decay), parallel=parallel)
            fused.clear()
            # The least of three: gloo's threads at times hold a piece that was reduced for longer than it is needed.
            measured = min(measured_step(config, rows, precision, kind, ema_decay, parallel) for _ in range(3))
            if world.leader:
                print("MEMORY", name, use.total, measured, len(fused), flush=True)


def test_memory_of_each_of_two_processes_is_within_a_tenth_of_measured():
    program = (
        f"import sys, warnings; warnings.simplefilter('ignore'); sys.path.insert(0, {str(Path(__file__).parent)!r})"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    words = [*launch, sys.executable, "-c", f"{program}; import test_memory; test_memory.each_of_two()"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("MEMORY")]
    assert [name for name, *_ in found] == list(SHARED)
    predicted, measured, fused = ([int(row[column]) for row in found] for column in (1, 2, 3))
    assert predicted == [pytest.approx(real, rel=0.1) for real in measured]
    assert fused == [3 * 2 * 2 * SHAPES[name].layers for name in SHARED], "each layer, in shards too"


@pytest.mark.filterwarnings("ignore")  # the profiler's own, about its clock
@pytest.mark.parametrize(("name", "precision"), [("deep", "bf16"), ("long", "fp32")])
def test_predicted_memory_knows_what_is_recomputed(name, precision):
    config = SHAPES[name]
    totals = []
    for recompute in ("none", "selective", "full"):
        use = predict(config, ObjectiveConfig(), "adamw", precision, 8, config.max_seq_len, recompute=recompute)
        totals.append(use.total - use.optimizer - use.update)
        assert totals[-1] == pytest.approx(measured_peak(config, 8, precision, recompute), rel=0.1)
    assert totals[0] > totals[1] > totals[2]
    assert totals[0] > 1.15 * totals[2]


@pytest.mark.filterwarnings("ignore")  # the profiler's own, about its clock
@pytest.mark.parametrize(("name", "precision"), [("deep", "bf16"), ("vocabulary", "fp32")])
def test_predicted_memory_knows_where_blocks_are_not_fused(name, precision):
    config, totals = SHAPES[name], []
    for fused in (True, False):
        use = predict(config, ObjectiveConfig(), "adamw", precision, 8, config.max_seq_len, fused=fused)
        totals.append(use.total - use.optimizer - use.update)
        assert totals[-1] == pytest.approx(measured_peak(config, 8, precision, fused=fused), rel=0.1)
    assert totals[1] > 1.05 * totals[0]


@pytest.mark.parametrize("change", ["train.compile=true", "train.dropout.rate=0.1", "train.dropout.drop_path=0.1"])
def test_only_a_cpu_fuses_and_neither_dropout_nor_a_compiler_lets_it(change):
    plain, changed = load_recipe("recipe=smoke"), load_recipe("recipe=smoke", change)
    fused = predict_for(plain, "cpu", "bf16", 4, 16).total
    apart = predict_for(plain, "cuda", "bf16", 4, 16).total
    assert apart > fused
    assert predict_for(changed, "cpu", "bf16", 4, 16).total == apart


def test_memory_is_predicted_for_a_backend_that_this_machine_lacks():
    config = SHAPES["deep"]
    sdpa, varlen = (
        predict(config.model_copy(update={"attention": name}), ObjectiveConfig(), "adamw", "bf16", 1, 128)
        for name in ("sdpa", "varlen")
    )
    assert sdpa == varlen


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_bytes_of_the_optimizer_are_those_of_its_tensors(kind):
    model = build(SHAPES["deep"], 0)
    optimizer = Optimizer(model, OptimizerConfig(kind=kind))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(1.0)
    held = sum(tensor.nbytes for tensor in optimizer.state_tensors().values() if tensor.ndim)
    assert optimizer_bytes(SHAPES["deep"], kind) == held


def test_large_micro_batches_are_extrapolated_to_what_they_take(monkeypatch):
    config = SHAPES["wide"]
    simulated = predict(config, ObjectiveConfig(), "adamw", "fp32", 64, 256).total
    monkeypatch.setattr(memory, "SIMULATED_TOKENS", 16 * 256)
    assert predict(config, ObjectiveConfig(), "adamw", "fp32", 64, 256).total == pytest.approx(simulated, rel=0.01)


def test_one_micro_batch_a_step_needs_no_room_for_gradients_beside_it():
    config = SHAPES["vocabulary"]
    alone, more = (
        predict(config, ObjectiveConfig(), "adamw", "fp32", 1, 128, accumulates=accumulates).total
        for accumulates in (False, True)
    )
    assert alone < more


def test_an_optimizer_beside_the_gpu_takes_nothing_of_its_memory():
    recipes = [load_recipe("recipe=smoke", f"train.offload_optimizer={word}") for word in ("false", "true")]
    there, beside = (predict_for(recipe, "cuda", "bf16", 4, 16) for recipe in recipes)
    assert there.optimizer == optimizer_bytes(recipes[0].model, "adamw")
    assert beside.optimizer == 0
    assert there.total - beside.total == there.optimizer


def test_the_largest_micro_batch_divides_the_batch_and_fits():
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    assert largest_that_fits(divisors(12), lambda rows: rows * 10, 45) == 4
    assert largest_that_fits(divisors(12), lambda rows: rows * 10, 5) is None


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_deep_model_takes_what_following_all_its_layers_finds(passes, recompute):
    config = SHAPES["deep"].model_copy(update={"layers": 16})
    settings = (ObjectiveConfig(), "bf16", 64, passes, recompute, True, None, 1)
    assert memory._peak_at_any_depth(config, *settings) == memory._simulated_peak(config, *settings)
