"""The compress stage: the newest checkpoint in, one folder of integers a variant out, each with its price.

Variants are made one after the other, block by block, in a working folder beside the artifact
(`compress.work/VARIANT-DIGEST`), from which a killed run goes on. Then each is read back from its files and measured
against the checkpoint in float32 on held-out text. One that costs more than its budget stops the stage, and
nothing is published; what was made stays in the working folder, so another budget does not make it anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.core.artifact import Artifact, Draft, Spec, make, require_parent
from slm.core.console import Progress, say, size, table
from slm.core.errors import UserError
from slm.core.flavours import CHECKPOINT
from slm.core.provenance import processor_name
from slm.evaluate.stage import task_inputs

if TYPE_CHECKING:
    from slm.compress.calibration import Rows
    from slm.compress.config import Variant
    from slm.compress.measure import Cost, HeldOut
    from slm.compress.stream import StoredModel
    from slm.recipe import Recipe

RESULTS = "cost.json"
OPENER = "slm.compress.files:open_variant"


def run(recipe: Recipe) -> Artifact:
    """The recipe's variants of its newest checkpoint; nothing heavy is imported if they are there already."""
    if not recipe.compress.variants:
        raise UserError(
            "compress.variants is empty, so there is nothing to make; choose some, as by compress=ship, or "
            "'compress.variants=[{name: int4}]'"
        )
    checkpoint, tokenizer = recipe.artifact("train"), recipe.artifact("tokenizer")
    shards, corpus = recipe.artifact("shards"), recipe.artifact("corpus")
    require_parent(checkpoint, "tokenizer", tokenizer)
    require_parent(checkpoint, "shards", shards)
    require_parent(shards, "corpus", corpus)
    parents = {"train": checkpoint, "tokenizer": tokenizer, "shards": shards, "corpus": corpus}
    inputs: dict[str, Any] = {"calibration": recipe.compress.calibration.text_hash()}
    if recipe.compress.tasks:
        inputs["tasks"] = {name: task_inputs(recipe, name) for name in recipe.evaluate.tasks}
    spec = Spec("compress", recipe.compress, parents, inputs, recipe.seed)

    def build(draft: Draft) -> None:
        _build(draft, recipe, spec)

    made = make(recipe.folder("compress"), spec, build, redo=recipe.redo)
    shutil.rmtree(work_folder(recipe), ignore_errors=True)
    return made


def work_folder(recipe: Recipe) -> Path:
    """Where blocks lie until all are there."""
    folder = recipe.folder("compress")
    return folder.with_name(f"{folder.name}.work")


def _build(draft: Draft, recipe: Recipe, spec: Spec) -> None:
    import torch

    from slm.compress.assemble import assemble
    from slm.compress.calibration import calibration_rows
    from slm.compress.stream import StoredModel, compress_blocks

    config = recipe.compress
    if config.threads:
        torch.set_num_threads(config.threads)
    model = StoredModel(spec.parents["train"].path)
    _require_settled_shape(model, spec.parents["tokenizer"])
    rows = None
    if any(variant.reads_text for variant in config.variants):
        rows = calibration_rows(recipe, spec.parents["shards"], spec.parents["tokenizer"], model.config.max_seq_len)
    notices = _trained_otherwise(spec.parents["train"], config.variants)
    for variant in config.variants:
        work = work_folder(recipe) / f"{variant.name}-{_digest(spec, variant, rows)}"
        with Progress(f"compress: {variant.name}", model.config.layers, "blocks") as progress:
            notices += compress_blocks(
                model, rows if variant.reads_text else None, variant, config, work, lambda _: progress.advance(1)
            )
        assemble(model, variant, work, draft.path / variant.name)
    for notice in notices:
        say(f"compress: {notice}")
    costs, on_tasks = _measure(draft, recipe, spec)
    facts = {
        variant.name: {
            **asdict(costs[variant.name]),
            "size_bytes": _size_bytes(draft.path / variant.name),
            "settings": variant.resolved(),
            **on_tasks.get(variant.name, {}),
        }
        for variant in config.variants
    }
    found: dict[str, Any] = {"variants": facts, "notices": notices}
    if rows is not None:
        found["calibration"] = {"hash": rows.hash, "rows": len(rows.tokens_NT), "tokens": rows.tokens}
    (draft.path / RESULTS).write_text(json.dumps(found, indent=1), encoding="utf-8")
    draft.counts.update(found, step=spec.parents["train"].counts.get("step"))
    _show(facts, _size_bytes(spec.parents["train"].path, "model-*.safetensors"))
    _require_budgets(config.variants, costs)
    _time(draft, recipe, spec, model)


def _trained_otherwise(checkpoint: Artifact, variants: tuple[Variant, ...]) -> list[str]:
    """A notice for each variant that rounds otherwise than the checkpoint's training, if that saw rounded weights."""
    trained = checkpoint.section["train"].get("quantization", {})
    if not trained.get("bits"):
        return []
    notices = []
    for variant in variants:
        mine = {name: getattr(variant, name) for name in ("bits", "group_size", "symmetric", "outside_bits")}
        others = [f"{key} {value} instead of {trained[key]}" for key, value in mine.items() if value != trained[key]]
        others += [f"method {variant.method} instead of rtn"] if variant.method != "rtn" else []
        if others:
            notices.append(f"{variant.name}: the checkpoint was trained to be rounded otherwise ({', '.join(others)})")
    return notices


def _require_settled_shape(model: StoredModel, tokenizer: Artifact) -> None:
    entries = int(tokenizer.section["vocab_size"])
    if model.config.vocab_size != entries:
        raise UserError(
            f"{model.folder} has model.vocab_size {model.config.vocab_size:,}, but {tokenizer.path} has {entries:,} "
            "entries; point artifacts.tokenizer at the one that the model was trained with"
        )


def _measure(draft: Draft, recipe: Recipe, spec: Spec) -> tuple[dict[str, Cost], dict[str, dict[str, Any]]]:
    """Of each variant its cost on held-out text, and on tasks where the recipe asks for it."""
    from slm.compress.files import load_compressed
    from slm.compress.measure import answers, compare
    from slm.compress.task_costs import ask, differences, plan_choices
    from slm.core.seeds import derive
    from slm.evaluate.scorer import Scorer
    from slm.model.load import load_model
    from slm.tokenizer.tokenizer import Tokenizer

    config = recipe.compress
    text = held_out(recipe, spec.parents)
    runs = 1 + len(config.variants)
    costs, on_tasks = {}, {}
    tasks = plan_choices(recipe, spec.parents["corpus"]) if config.tasks else None
    tokenizer, batch_tokens = Tokenizer.load(spec.parents["tokenizer"].path), recipe.evaluate.batch_tokens
    with Progress("compress: measuring", runs * text.targets, "tokens") as progress:
        model = load_model(spec.parents["train"].path, attention="sdpa").eval()
        reference = answers(model, text, config.positions, progress.advance)
        answered = ask(tasks, Scorer(model, tokenizer, batch_tokens, shown=False)) if tasks else {}
        del model
        for variant in config.variants:
            compressed = load_compressed(draft.path / variant.name).eval()
            found = answers(compressed, text, config.positions, progress.advance)
            costs[variant.name] = compare(reference, found, text, derive(recipe.seed, "bootstrap"))
            if tasks:
                theirs = ask(tasks, Scorer(compressed, tokenizer, batch_tokens, shown=False))
                on_tasks[variant.name] = {"tasks": differences(answered, theirs)}
    return costs, on_tasks


def held_out(recipe: Recipe, parents: Mapping[str, Artifact]) -> HeldOut:
    """The documents over which costs are measured, as `recipe.compress` picks them out of the corpus."""
    from slm.compress import measure

    context = int(parents["shards"].counts["seq_len"])
    tokenizer, most = parents["tokenizer"].path, recipe.compress.max_documents
    return measure.held_out(parents["corpus"], tokenizer, context, most, recipe.shards.threads)


def _time(draft: Draft, recipe: Recipe, spec: Spec, model: StoredModel) -> None:
    """Time the variants beside the checkpoint, where the recipe asks for it."""
    from slm.serve.timing import Opening, time_all

    config = recipe.compress
    if not config.timing.turns:
        return
    tokenizer, threads = str(spec.parents["tokenizer"].path.absolute()), config.threads or os.cpu_count() or 1
    openings = {CHECKPOINT: Opening(spec.parents["train"].path)}
    openings |= {name: Opening(draft.path / name, OPENER, tokenizer) for name in draft.counts["variants"]}
    with Progress("compress: timing", len(openings) * config.timing.turns, "models") as progress:
        speeds = time_all(
            openings, config.timing, threads=threads, vocab_size=model.config.vocab_size,
            context=model.config.max_seq_len, seed=recipe.seed, told=lambda: progress.advance(1),
        )  # fmt: skip
    draft.counts[CHECKPOINT] = {
        "size_bytes": _size_bytes(spec.parents["train"].path, "model-*.safetensors"), "speed": speeds[CHECKPOINT]
    }  # fmt: skip
    for name, found in draft.counts["variants"].items():
        found["speed"] = speeds[name]
    draft.counts["timing"] = {**config.timing.resolved(), "threads": threads, "processor": processor_name()}


def _show(facts: dict[str, Any], checkpoint_bytes: int) -> None:
    rows = [("float32", "", size(checkpoint_bytes), "", "", "", "")]
    for name, found in facts.items():
        settings, (low, high) = found["settings"], found["interval_95"]
        group = f"groups of {settings['group_size']}" if settings["group_size"] else "rows"
        how = settings["method"] + (f" by {settings['prune_by']}" if settings["method"] == "sparse" else "")
        how += f", {settings['bits']} bits" + (f", {group}" if settings["bits"] != 32 else "")
        rows.append(
            (
                name, how, size(found["size_bytes"]),
                f"{found['increase']:+.5f}", f"{low:+.5f} to {high:+.5f}", f"{found['mean_kl']:.3g}",
                f"{100 * found['top1_agreement']:.1f} %",
            )
        )  # fmt: skip
    columns = ("variant", "how", "size", "Δ bits/byte", "95 % interval", "mean KL", "top-1")
    table("What compressing cost on held-out text", columns, rows)


def _require_budgets(variants: tuple[Variant, ...], costs: dict[str, Cost]) -> None:
    over = []
    for variant in variants:
        cost = costs[variant.name]
        for key, found, budget in (
            ("max_bits_per_byte_increase", cost.increase, variant.max_bits_per_byte_increase),
            ("max_kl", cost.mean_kl, variant.max_kl),
        ):
            if found > budget:
                over.append(f"compress.variants.{variant.name}.{key} is {budget:g}, it cost {found:.4g}")
    if over:
        raise UserError(
            f"{'; '.join(over)}; nothing was published: take smaller groups, more bits or method awq, or raise the "
            "budget if that loss is worth the size"
        )


def _digest(spec: Spec, variant: Variant, rows: Rows | None) -> str:
    settings = {name: value for name, value in variant.identity().items() if not name.startswith("max_")}
    made_from = [spec.parents["train"].fingerprint, settings, rows.hash if rows is not None else ""]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]


def _size_bytes(folder: Path, pattern: str = "*.safetensors") -> int:
    return sum(file.stat().st_size for file in folder.glob(pattern))
