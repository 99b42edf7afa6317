"""Evaluate artifacts with a difference that was put there, made without a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slm.core.artifact import Artifact, Spec, create, open_artifact
from slm.corpus.config import CorpusConfig
from slm.evaluate.config import EvaluateConfig
from slm.evaluate.stage import DOCUMENTS, ITEMS, LAYOUT_VERSION
from slm.recipe import build_recipe
from slm.train import Training

NUM_DOCUMENTS, NUM_ITEMS = 60, 200
HOSTILE = "</pre><script>alert('x')</script>"
ITEM_SCHEMA = pa.schema(
    {
        "task": pa.string(), "item": pa.string(), "metric": pa.string(), "value": pa.float64(), "chance": pa.float64(),
        "prompt": pa.string(), "choices": pa.list_(pa.string()), "gold": pa.int32(),
        "choice_logprobs": pa.list_(pa.float64()), "choice_bytes": pa.list_(pa.int32()), "answer": pa.string(),
        "prompt_tokens": pa.int32(), "clean": pa.bool_(), "source": pa.string(), "language": pa.string(),
        "rare_token_rate": pa.float64(),
    }
)  # fmt: skip


def document_rows(shift: float, seed: int) -> list[dict[str, Any]]:
    """Of the same documents for every call; `shift` bits per byte more on those of the source `prose`."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    rows = []
    for number in range(NUM_DOCUMENTS):
        num_bytes = int(shared.integers(200, 4_000))
        source = "prose" if number % 3 == 0 else "code"
        bits = shared.normal(1.5, 0.3) + own.normal(0, 0.02) + (shift if source == "prose" else 0.0)
        rows.append(
            {
                "id": f"{source}/{number}", "source": source, "domain": "", "language": "", "bytes": num_bytes,
                "tokens": num_bytes // 3, "rare_token_rate": float(shared.random() * 0.1),
                "nats": bits * num_bytes * math.log(2), "bits_per_byte": bits,
                "gzip_bits_per_byte": float(shared.normal(3, 0.3)),
            }
        )  # fmt: skip
    return rows


def item_rows(skill: float, seed: int, temperature: float = 1.0) -> list[dict[str, Any]]:
    """Questions of four choices, answered by draws from what is stated, so calibrated where temperature is 1."""
    shared, own = np.random.default_rng(1), np.random.default_rng(seed)
    rows = []
    for number in range(NUM_ITEMS):
        gold, hardness = int(shared.integers(4)), shared.normal(0, 1)
        logits = own.normal(0, 1, 4)
        logits[gold] += skill + hardness
        logprobs = (logits - np.log(np.exp(logits).sum())) / temperature
        logprobs -= np.log(np.exp(logprobs).sum())
        rows.append(
            {
                "task": "quiz", "item": f"quiz/{number}", "metric": "acc", "value": float(logprobs.argmax() == gold),
                "chance": 0.25, "prompt": f"Question {number} {HOSTILE}?", "choices": ["one", "two", "three", "four"],
                "gold": gold, "choice_logprobs": [float(value - 5) for value in logprobs],
                "choice_bytes": [3, 3, 5, 4], "answer": "", "prompt_tokens": 5 + number % 40,
                "clean": number % 10 != 0, "source": "quiz", "language": "de" if number % 4 == 0 else "en",
                "rare_token_rate": number % 50 / 100,
            }
        )  # fmt: skip
    return rows


def publish_corpus(folder: Path) -> Artifact:
    """Held-out documents by the names that `document_rows` uses."""
    texts = [(row["id"], f"Text of {row['id']} {HOSTILE}", row["source"]) for row in document_rows(0.0, 0)]
    columns = {"text": [text for _, text, _ in texts], "id": [name for name, _, _ in texts]}
    columns |= {"source": [source for _, _, source in texts], "metadata": ["{}"] * len(texts)}
    columns |= {name: ["none"] * len(texts) for name in ("licence", "origin")}
    with create(folder, Spec("corpus", CorpusConfig())) as draft:
        pq.write_table(pa.table(columns), draft.path / "validation-00000.parquet")
    return open_artifact(folder, "corpus")


def publish_checkpoint(
    run: Path,
    tokens: int,
    seed: int = 0,
    model: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    objective: dict[str, Any] | None = None,
    beside: dict[str, Artifact] | None = None,
) -> Artifact:
    """What a training leaves behind but its weights."""
    recipe = build_recipe(
        {"model": model or {}, "train": {"tokens": tokens, **(train or {})}, "objective": objective or {}}
    )
    shards_folder = run.parent / "shards"
    if not shards_folder.exists():
        with create(shards_folder, Spec("shards", recipe.shards)) as draft:
            (draft.path / "rows").write_text("none")
    training = Training(model=recipe.model, objective=recipe.objective, train=recipe.train)
    shards = open_artifact(shards_folder, "shards")
    parents = {"shards": shards, **(beside or {})}
    with create(run / "train" / "step-1", Spec("train", training, parents, seed=seed)) as draft:
        (draft.path / "weights").write_text("none")
        draft.counts.update(tokens=tokens)
    return open_artifact(run / "train" / "step-1", "train")


def publish(
    run: Path,
    corpus: Artifact,
    documents: list[dict[str, Any]],
    items: list[dict[str, Any]] | None = None,
    results: str = "{}",
    seed: int = 0,
    checkpoint: Artifact | None = None,
) -> Artifact:
    """The evaluate artifact of a run with these tables."""
    parents = {"corpus": corpus} | ({"train": checkpoint} if checkpoint else {})
    spec = Spec("evaluate", EvaluateConfig(), parents, {"layout_version": LAYOUT_VERSION}, seed)
    with create(run / "evaluate", spec) as draft:
        (draft.path / "results.json").write_text(results)
        pq.write_table(pa.Table.from_pylist(documents), draft.path / DOCUMENTS)
        if items is not None:
            pq.write_table(pa.Table.from_pylist(items, schema=ITEM_SCHEMA), draft.path / ITEMS)
    return open_artifact(run / "evaluate", "evaluate")
