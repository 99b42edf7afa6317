"""All numbers of one checkpoint: scores per document, baselines, intervals, golden prompts, tasks, and their table.

Memory: a block of documents (2 million tokens) at a time, and one line of figures per document.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from slm.core.artifact import Artifact, Draft
from slm.core.console import Progress, say, table
from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.corpus import Document, read_documents
from slm.corpus.decontamination.config import GOLDEN
from slm.corpus.decontamination.report import clean_items
from slm.evaluate.agreement import agreement, summary
from slm.evaluate.baselines import XzMeter, count_targets, gzip_bytes, unigram_nats
from slm.evaluate.config import EvaluateConfig
from slm.evaluate.controls import controls
from slm.evaluate.golden import GoldenPrompt, Outcome, check, read_golden
from slm.evaluate.journal import Journal, key_of
from slm.evaluate.next_token import Learned, next_token_calibration
from slm.evaluate.score import score
from slm.evaluate.scorer import Scorer
from slm.evaluate.stage import ANSWERS, ITEMS, TEACHER
from slm.evaluate.statistics.intervals import estimate
from slm.evaluate.task_calibration import task_calibrations
from slm.evaluate.tasks.replies import REPLIES, replies
from slm.evaluate.tasks.run import plan_tasks, run_tasks
from slm.evaluate.tasks.variation import robustness
from slm.model.load import load_model
from slm.model.transformer import Transformer
from slm.recipe import Recipe
from slm.shards.encode import Ids, encode
from slm.shards.reader import ShardReader
from slm.tokenizer.audit import RARE_BELOW
from slm.tokenizer.tokenizer import Tokenizer

BLOCK_TOKENS = 1 << 21
"""Documents sorted by length together."""

CALIBRATION_DOCUMENTS = 256
"""A sample of the held-out positions is taken from at most so many documents."""
NEXT_TOKEN = "next token"
COLUMNS = ("id", "source", "domain", "language", "bytes", "tokens", "rare_token_rate", "nats", "gzip_bytes")
"""Of each document; `rare_token_rate` is the share of its tokens met less than `RARE_BELOW` times in training rows."""

Columns = dict[str, list[Any]]
Encoded = tuple[Document, Ids]


def measure(recipe: Recipe, parents: Mapping[str, Artifact], golden: Path | None, draft: Draft) -> None:
    """Take every number of `recipe.evaluate` and write them into `draft`."""
    config = recipe.evaluate
    prompts = read_golden(golden) if golden else []
    tasks = plan_tasks(config, parents["corpus"])
    tokenizer = Tokenizer.load(parents["tokenizer"].path)
    model = _load(parents["train"], tokenizer, config)
    _window(config, parents["shards"], model)
    if not parents["train"].counts["finished"]:
        say(f"evaluate: {parents['train'].path} is a checkpoint of a run that has not finished")

    how = (config.precision, config.kv_cache)
    asked = key_of(parents["train"].fingerprint, parents["tokenizer"].fingerprint, *how)
    answers = recipe.folder("evaluate").with_name(ANSWERS)
    with Journal(answers / f"{asked}.jsonl") as journal:
        if journal.resumed:
            say(f"evaluate: going on from {journal.resumed:,} answers of an evaluation that was stopped")
        train_V = count_targets(ShardReader(parents["shards"], "train"))
        scorer = Scorer(
            model, tokenizer, config.batch_tokens, config.precision, journal, kv_cache=config.kv_cache,
            rare_V=train_V < RARE_BELOW,
        )  # fmt: skip
        results, columns = _figures(recipe, parents, scorer, prompts, journal, train_V)
        others = controls(config.controls, scorer, train_V, recipe.seed, answers, asked)
        documents = _chosen(parents["corpus"], config.replies, config.sources)
        more = {REPLIES: replies(scorer, documents, config.reply_tokens)} if config.replies else {}
        results["tasks"] = run_tasks(tasks, scorer, others, draft.path, recipe.seed, more)
        results["robustness"] = robustness(tasks, scorer, derive(recipe.seed, "robustness"))
    results["teacher"] = _beside_teacher(model, parents, recipe, draft.path)
    results["calibration"].update(task_calibrations(draft.path / ITEMS, derive(recipe.seed, "calibration")))
    _write(draft.path, results, columns)
    found = results["golden"]
    draft.counts.update({name: value for name, value in results["validation"].items() if name != "interval_95"})
    draft.counts.update(results["baselines"], golden_passed=found["passed"], golden_failed=found["failed"])
    draft.counts.update(tasks=results["tasks"])
    _print(results)


def _figures(
    recipe: Recipe,
    parents: Mapping[str, Artifact],
    scorer: Scorer,
    prompts: Sequence[GoldenPrompt],
    journal: Journal,
    train_V: NDArray[np.int64],
) -> tuple[dict[str, Any], Columns]:
    """Held-out documents, baselines and golden prompts: the results, and a line of figures per document."""
    config, corpus, model, tokenizer = recipe.evaluate, parents["corpus"], scorer.model, scorer.tokenizer
    context, stride = _window(config, parents["shards"], model)
    same_documents = not (config.max_documents or config.sources or recipe.artifacts.corpus)
    total = parents["shards"].counts["validation"]["targets"] if same_documents else None
    documents = _chosen(corpus, config.max_documents, config.sources)
    columns, held_out_V, xz = _score(
        model, tokenizer, documents, total, (context, stride), recipe, train_V < RARE_BELOW, journal
    )
    if not columns["id"]:
        which = f" of {', '.join(config.sources)} (evaluate.sources)" if config.sources else ""
        raise UserError(f"{corpus.path} holds no held-out documents{which}; raise corpus.validation_fraction")
    validation = _summary(columns, recipe.seed)
    validation.update(context_tokens=context, stride_tokens=stride)
    validation.update(precision=config.precision, kv_cache=config.kv_cache)
    num_bytes = validation["bytes"]
    unigram = unigram_nats(train_V, held_out_V)
    outcomes = check(model, tokenizer, prompts)
    passed = sum(outcome.passed for outcome in outcomes)
    clean = clean_subset(corpus, outcomes)
    sample = _sample(tokenizer, corpus, recipe)
    results = {
        "validation": validation,
        "baselines": {
            "unigram_bits_per_byte": unigram / math.log(2) / num_bytes,
            "gzip_bits_per_byte": 8 * sum(columns["gzip_bytes"]) / num_bytes,
            "xz_bits_per_byte": 8 * xz / num_bytes,
        },
        "calibration": _calibration(model, sample, (context, stride), recipe),
        "sources": _groups(columns, "source", recipe.seed),
        "domains": _groups(columns, "domain", recipe.seed),
        "golden": {
            "passed": passed,
            "failed": len(outcomes) - passed,
            "clean": clean,
            "items": [asdict(item) for item in outcomes],
        },
    }
    return results, columns


def clean_subset(corpus: Artifact, outcomes: Sequence[Outcome]) -> dict[str, int] | None:
    """Of the golden prompts that no document read for `corpus` held, how many passed and failed.

    None if the corpus was not kept clean of golden prompts: none was named when it was made, or all were too short.
    """
    names = clean_items(corpus, GOLDEN)
    if names is None:
        return None
    passed = [outcome.passed for outcome in outcomes if outcome.name in names]
    return {"passed": sum(passed), "failed": len(passed) - sum(passed)}


def _load(checkpoint: Artifact, tokenizer: Tokenizer, config: EvaluateConfig) -> Transformer:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("evaluate.device is cuda, but torch sees no GPU here; set evaluate.device=cpu or auto")
    if config.threads:
        torch.set_num_threads(config.threads)
    model = load_model(checkpoint.path)
    if model.config.vocab_size != tokenizer.vocab_size:
        raise UserError(
            f"{checkpoint.path} has a vocabulary of {model.config.vocab_size:,}, its tokenizer one of "
            f"{tokenizer.vocab_size:,}; point artifacts.tokenizer at the one it was trained with"
        )
    use_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    return model.to("cuda" if use_gpu else "cpu").eval()


def _window(config: EvaluateConfig, shards: Artifact, model: Transformer) -> tuple[int, int]:
    context = config.context_tokens or int(shards.counts["seq_len"])
    if context > model.config.max_seq_len:
        raise UserError(
            f"evaluate.context_tokens ({context:,}) must not exceed the checkpoint's max_seq_len "
            f"({model.config.max_seq_len:,}); lower it"
        )
    stride = config.stride_tokens or max(1, context // 2)
    if stride > context:
        raise UserError(f"evaluate.stride_tokens ({stride:,}) must not exceed the window ({context:,}); lower it")
    return context, stride


def _chosen(corpus: Artifact, most: int, sources: Collection[str]) -> Iterator[Document]:
    """All held-out documents of these sources, or of any, or `most` of them at even distances."""

    def asked() -> Iterator[Document]:
        return (one for one in read_documents(corpus, "validation") if not sources or one.source in sources)

    if unknown := [name for name in sources if name not in corpus.counts["sources"]]:
        raise UserError(
            f"evaluate.sources ({', '.join(unknown)}) must name sources of {corpus.path} "
            f"({', '.join(corpus.counts['sources'])}); correct it"
        )
    total = sum(1 for _ in asked()) if sources else int(corpus.counts["validation"]["documents"])
    for number, document in enumerate(asked()):
        if not most or (number + 1) * most // total > number * most // total or most >= total:
            yield document


def _score(
    model: Transformer,
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    total: int | None,
    window: tuple[int, int],
    recipe: Recipe,
    rare_V: NDArray[np.bool_],
    journal: Journal,
) -> tuple[Columns, NDArray[np.int64], int]:
    """Figures per document, how often each token is a target in them, and the size of `xz -9` of all."""
    config, columns = recipe.evaluate, Columns({name: [] for name in COLUMNS})
    held_out_V, xz = np.zeros(tokenizer.vocab_size, dtype=np.int64), XzMeter()
    with Progress("evaluate: scoring", total, "tokens") as progress:
        for block in _blocks(encode(documents, tokenizer, recipe.shards.threads)):
            content = b"".join(ids.tobytes() + flags_of(learned) for _, (ids, learned) in block)
            key = key_of("documents", window, hashlib.sha256(content).hexdigest())
            nats_of: list[float] | None = journal.get(key)
            if nats_of is None:
                nats_of = score(
                    model,
                    [ids for _, (ids, _) in block],
                    context=window[0],
                    stride=window[1],
                    batch_tokens=config.batch_tokens,
                    precision=config.precision,
                    kv_cache=config.kv_cache,
                    progress=progress.advance,
                    learned=[learned for _, (_, learned) in block],
                ).tolist()
                journal.put([(key, nats_of)])
            for (document, (ids, learned)), nats in zip(block, nats_of, strict=True):
                targets = ids[1:] if learned is None else ids[learned]
                text = document.text.encode() if learned is None else tokenizer.decode_bytes(targets.tolist())
                xz.feed(text)
                held_out_V += np.bincount(targets, minlength=tokenizer.vocab_size)
                rare = float(rare_V[targets].mean())
                kind = (document.metadata.get(name, "") for name in ("domain", "language"))
                figures = (document.id, document.source, *kind, len(text), len(targets), rare, nats, gzip_bytes(text))
                for name, figure in zip(COLUMNS, figures, strict=True):
                    columns[name].append(figure)
    return columns, held_out_V, xz.finish()


def flags_of(learned: NDArray[np.bool_] | None) -> bytes:
    """What identifies the choice of tokens that count."""
    return b"" if learned is None else learned.tobytes()


def _blocks(encoded: Iterable[Encoded]) -> Iterator[list[Encoded]]:
    block: list[Encoded] = []
    tokens = 0
    for document, ids in encoded:
        block.append((document, ids))
        tokens += len(ids.ids_T)
        if tokens >= BLOCK_TOKENS:
            yield block
            block, tokens = [], 0
    if block:
        yield block


def _sample(tokenizer: Tokenizer, corpus: Artifact, recipe: Recipe) -> list[tuple[str, NDArray[np.int32], Learned]]:
    """Names and ids of the documents on which positions are sampled, and which tokens of conversations count."""
    most = min(recipe.evaluate.max_documents or CALIBRATION_DOCUMENTS, CALIBRATION_DOCUMENTS)
    encoded = encode(_chosen(corpus, most, recipe.evaluate.sources), tokenizer, recipe.shards.threads)
    return [(document.id, ids.ids_T, ids.learned_T) for document, ids in encoded]


def _calibration(
    model: Transformer,
    sample: Sequence[tuple[str, NDArray[np.int32], Learned]],
    window: tuple[int, int],
    recipe: Recipe,
) -> dict[str, Any]:
    """Of next-token predictions on a sample of the documents; empty where there is one document only."""
    config = recipe.evaluate
    if len(sample) < 2:
        return {}
    found = next_token_calibration(
        model,
        [ids for _, ids, _ in sample],
        [learned for *_, learned in sample],
        context=window[0],
        stride=window[1],
        batch_tokens=config.batch_tokens,
        precision=config.precision,
        seed=derive(recipe.seed, "calibration"),
    )
    return {NEXT_TOKEN: found}


def _beside_teacher(
    model: Transformer, parents: Mapping[str, Artifact], recipe: Recipe, folder: Path
) -> dict[str, Any] | None:
    """What the model and a teacher have in common, with a table by document; None where no teacher is named."""
    if "teacher" not in parents:
        return None
    config, tokenizer = recipe.evaluate, Tokenizer.load(parents["tokenizer"].path)
    context, stride = _window(config, parents["shards"], model)
    teacher = load_model(parents["teacher"].path).to(next(model.parameters()).device).eval()
    columns = agreement(
        model, teacher, _sample(tokenizer, parents["corpus"], recipe), context=context, stride=stride,
        batch_tokens=config.batch_tokens, precision=config.precision,
    )  # fmt: skip
    pq.write_table(pa.table(columns), folder / TEACHER)
    return summary(columns, derive(recipe.seed, "teacher"))


def _summary(columns: Columns, seed: int) -> dict[str, Any]:
    nats_D, bytes_D = np.array(columns["nats"]), np.array(columns["bytes"], dtype=np.float64)
    nats, num_bytes, tokens = float(nats_D.sum()), int(bytes_D.sum()), sum(columns["tokens"])
    found = estimate(nats_D / math.log(2), bytes_D, seed=derive(seed, "bootstrap"))
    return {
        "bits_per_byte": nats / math.log(2) / num_bytes,
        "interval_95": [found.low, found.high],
        "nats_per_token": nats / tokens,
        "perplexity": math.exp(nats / tokens),
        "documents": len(columns["id"]),
        "bytes": num_bytes,
        "tokens": tokens,
    }


def _groups(columns: Columns, key: str, seed: int) -> dict[str, dict[str, Any]]:
    """Bits per byte of the model, with interval, and of gzip for each source or domain."""
    groups: dict[str, dict[str, Any]] = {}
    for name in filter(None, dict.fromkeys(columns[key])):
        rows = [number for number, value in enumerate(columns[key]) if value == name]
        bytes_D, nats_D, packed_D = (
            np.array([columns[c][row] for row in rows], dtype=np.float64) for c in ("bytes", "nats", "gzip_bytes")
        )
        found = estimate(nats_D / math.log(2), bytes_D, seed=derive(seed, "bootstrap", key, name))
        groups[name] = {
            "documents": len(rows),
            "bytes": int(bytes_D.sum()),
            "bits_per_byte": found.value,
            "interval_95": [found.low, found.high] if len(rows) > 1 else None,
            "gzip_bits_per_byte": float(8 * packed_D.sum() / bytes_D.sum()),
        }
    return groups


def _write(folder: Path, results: dict[str, Any], columns: Columns) -> None:
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text, encoding="utf-8")
    num_bytes = np.array(columns["bytes"])
    shown = {name: values for name, values in columns.items() if name != "gzip_bytes"}
    shown["bits_per_byte"] = (np.array(columns["nats"]) / math.log(2) / num_bytes).tolist()
    shown["gzip_bits_per_byte"] = (8 * np.array(columns["gzip_bytes"]) / num_bytes).tolist()
    pq.write_table(pa.table(shown), folder / "documents.parquet")


def _print(results: dict[str, Any]) -> None:
    validation, baselines, golden = results["validation"], results["baselines"], results["golden"]
    low, high = validation["interval_95"]
    how = f"windows of {validation['context_tokens']:,}, step {validation['stride_tokens']:,}"
    note = f"95 % interval {low:.3f} to {high:.3f}; {how}, {validation['precision']}"
    rows = [
        ("model", f"{validation['bits_per_byte']:.4f}", note),
        ("xz -9, all together", f"{baselines['xz_bits_per_byte']:.4f}", "looks back over all held-out text"),
        ("gzip -9, each alone", f"{baselines['gzip_bits_per_byte']:.4f}", "learns from one document"),
        ("unigram tokens", f"{baselines['unigram_bits_per_byte']:.4f}", "train frequencies, add-one smoothed"),
    ]
    title = f"Bits per byte of {validation['documents']:,} held-out documents ({validation['bytes']:,} bytes)"
    table(title, ("", "bits/byte", ""), rows)
    for name in ("domains", "sources"):
        if len(results[name]) > 1:
            columns = (name.rstrip("s"), "documents", "bits/byte [95 %]", "gzip -9")
            groups = results[name].items()
            table("", columns, [(group, found["documents"], _interval(found), found["gzip_bits_per_byte"])
                                for group, found in groups])  # fmt: skip
    if NEXT_TOKEN in results["calibration"]:
        stated, scaled = (results["calibration"][NEXT_TOKEN][key] for key in ("stated", "scaled"))
        say(
            f"evaluate: says its likeliest token with {100 * stated['confidence']:.1f} % and is right "
            f"{100 * stated['accuracy']:.1f} %; calibration error {stated['error']:.4f} (a calibrated model's "
            f"{stated['error_if_calibrated']:.4f}), at temperature {scaled['temperature']:.3f} {scaled['error']:.4f}"
        )
    if beside := results["teacher"]:
        (low, high), (near, far) = beside["agreement_95"], beside["divergence_nats_95"]
        say(
            f"evaluate: finds its teacher's likeliest token likeliest at {100 * beside['agreement']:.1f} % of "
            f"{beside['positions']:,} positions ({100 * low:.1f} to {100 * high:.1f}), and is "
            f"{beside['divergence_nats']:.3f} nats from it ({near:.3f} to {far:.3f})"
        )
    say(f"evaluate: perplexity {validation['perplexity']:.2f} a token, {validation['nats_per_token']:.4f} nats")
    if golden["items"]:
        say(f"evaluate: {golden['passed']} of {len(golden['items'])} golden prompts passed")
        if golden["clean"] is not None:
            passed, failed = golden["clean"].values()
            say(f"evaluate: of those that no document of the corpus held, {passed} of {passed + failed} passed")


def _interval(found: Mapping[str, Any]) -> str:
    """Bits per byte of a group; of one document there is no interval."""
    shown = "[{:.3f}, {:.3f}]".format(*found["interval_95"]) if found["interval_95"] else "(one document)"
    return f"{found['bits_per_byte']:.3f} {shown}"
