"""`slm corpus score GOOD BAD FOLDER`: a quality model from two sets of texts.

In: two files, folders or globs of text, JSON Lines or Parquet. Out: a folder with weights and settings, and figures on
documents held out by a hash of their text. Logistic regression by stochastic gradient steps scaled per weight (AdaGrad,
Duchi et al. 2011), each set weighing the same, in an order drawn from a fixed seed: the same sets make the same bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slm.core.artifact import placed
from slm.core.console import Progress, say, table
from slm.core.errors import ProblemsError, UserError
from slm.core.seeds import derive
from slm.corpus.cleaning.quality_score import FORMAT, SETTINGS, WEIGHTS, features, sigmoid
from slm.corpus.cleaning.views import TextViews

BUCKETS = 1 << 18
EPOCHS = 5
STEP_SIZE = 0.5
HELD_OUT = 0.1
MAX_DOCUMENTS = 100_000
"""Of each set; a document keeps its features in memory while the model is made, a few kilobytes."""
SEED = 1234

USAGE = "usage: slm corpus score GOOD BAD FOLDER, such as slm corpus score good.jsonl bad.jsonl models/quality"

Example = tuple[NDArray[np.int64], NDArray[np.float32], bool]
"""Buckets, shares, and whether the text is a good one."""


def train(arguments: Sequence[str]) -> None:
    """Make a model and print what it does to documents that it has not seen."""
    if len(arguments) != 3 or any("=" in word for word in arguments):
        raise ProblemsError([USAGE])
    good, bad, folder = arguments
    if Path(folder).exists() and not (Path(folder) / SETTINGS).is_file():
        raise UserError(f"{folder} exists and is no quality model; name another folder for the model")
    seen: list[Example] = []
    held_out: list[Example] = []
    for path, is_good in ((good, True), (bad, False)):
        for text in itertools.islice(texts(path), MAX_DOCUMENTS):
            (held_out if is_held_out(text) else seen).append((*features(TextViews(text), BUCKETS), is_good))
    for name, examples in (("to learn from", seen), ("to measure with", held_out)):
        if len({is_good for _, _, is_good in examples}) < 2:
            raise UserError(f"{good} and {bad} leave no documents of one set {name}; give at least some dozens of each")
    weights, bias = fit(seen)
    figures = measure(weights, bias, held_out)
    write_model(Path(folder), weights, bias, {"documents": len(seen), "held_out": figures})
    table("quality model, on documents held out", ["figure", "value"], list(figures.items()))
    say(f"model: {folder}; take it with the step {{step: quality_score, model: {folder}}}")


def texts(path: str) -> Iterator[str]:
    """The texts of a file, folder or glob, by the source that its suffix names."""
    from slm.corpus import Rejects, source
    from slm.corpus.config import CorpusConfig
    from slm.corpus.units import plan

    name = path.removesuffix(".gz")
    kind = "jsonl" if name.endswith(("jsonl", "ndjson")) else "parquet" if name.endswith("parquet") else "text"
    config = CorpusConfig.model_validate({"sources": [{"kind": kind, "path": path, "licence": "unknown"}]})
    rejects = Rejects("skip", config.max_document_bytes)
    for unit in plan(config):
        for document in source(kind).read(config.sources[0], unit, rejects):
            if document.text.strip():
                yield document.text


def is_held_out(text: str) -> bool:
    """Whether a document is for measuring: by a hash of its text, so that a copy is on the same side."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < HELD_OUT


def fit(examples: Sequence[Example]) -> tuple[NDArray[np.float32], float]:
    """Weights and bias that tell the sets apart; both sets weigh the same, however many documents they have."""
    weights, squares = np.zeros(BUCKETS, np.float32), np.full(BUCKETS, 1e-6, np.float32)
    bias, bias_square = 0.0, 1e-6
    good = sum(is_good for _, _, is_good in examples)
    weight_of = {True: len(examples) / (2 * good), False: len(examples) / (2 * (len(examples) - good))}
    with Progress("quality model", EPOCHS * len(examples), "documents") as progress:
        for epoch in range(EPOCHS):
            order = np.random.default_rng(derive(SEED, "quality model", epoch)).permutation(len(examples))
            for place in order.tolist():
                bucket, share, is_good = examples[place]
                error = (sigmoid(float(weights[bucket] @ share) + bias) - is_good) * weight_of[is_good]
                gradient = (error * share).astype(np.float32)
                squares[bucket] += gradient * gradient
                weights[bucket] -= STEP_SIZE * gradient / np.sqrt(squares[bucket])
                bias_square += error * error
                bias -= STEP_SIZE * error / bias_square**0.5
                progress.advance()
    return weights, bias


def measure(weights: NDArray[np.float32], bias: float, examples: Sequence[Example]) -> dict[str, float]:
    """Documents, the share told right at one half, and the area under the ROC curve."""
    scores = scores_of(weights, bias, examples)
    is_good = np.array([kind for _, _, kind in examples])
    return {
        "good documents": int(is_good.sum()),
        "bad documents": int((~is_good).sum()),
        "told right at 0.5": float(((scores >= 0) == is_good).mean()),
        "area under the curve": area_under_curve(scores, is_good),
    }


def scores_of(weights: NDArray[np.float32], bias: float, examples: Sequence[Example]) -> NDArray[np.float64]:
    """The log-odds of each text for the good set."""
    return np.array([float(weights[bucket] @ share) + bias for bucket, share, _ in examples])


def area_under_curve(scores: NDArray[np.float64], is_good: NDArray[np.bool_]) -> float:
    """How often a good text scores higher than another one, ties half."""
    smaller = scores[is_good][:, None] > scores[~is_good][None, :]
    equal = scores[is_good][:, None] == scores[~is_good][None, :]
    return float(smaller.mean() + equal.mean() / 2)


def write_model(folder: Path, weights: NDArray[np.float32], bias: float, figures: dict[str, Any]) -> None:
    """The folder that `quality_score.load_model` reads, whole or not at all."""
    from safetensors.numpy import save_file

    settings = {"format": FORMAT, "buckets": len(weights), "bias": bias, "figures": figures}
    with placed(folder) as draft:
        save_file({"weights": weights}, draft / WEIGHTS)
        (draft / SETTINGS).write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")
