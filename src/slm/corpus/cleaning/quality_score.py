"""Step `quality_score`: how probably a text belongs with the good ones, by a linear model over its words.

A text counts as its words and pairs of neighbouring words in lower case, hashed into buckets, each as often as it
occurs, scaled to length 1. The model weighs the buckets (logistic regression). It is a folder with the weights as
safetensors and everything else as JSON; `quality_model` makes it. What it knows is which words go with which set: it
can tell prose from spam of known kinds, not whether a statement is true.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slm.core.errors import DamagedError, UserError
from slm.corpus.cleaning.config import QualityScoreStep
from slm.corpus.cleaning.views import Notes, TextViews
from slm.corpus.document import Dropped

WEIGHTS, SETTINGS = "weights.safetensors", "model.json"
FORMAT = 1
MIX = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: spreads pairs over the buckets (Fibonacci hashing)."""


def build(config: QualityScoreStep) -> Callable[[TextViews, Notes], str | Dropped]:
    """The step: a text as it is, its score noted, or dropped as `low`."""
    weights, bias = load_model(Path(config.model))

    def clean(views: TextViews, notes: Notes) -> str | Dropped:
        score = probability(views, weights, bias)
        notes.metadata["quality"] = f"{score:.4f}"
        return Dropped("low") if score < config.min_score else views.text

    return clean


def features(views: TextViews, buckets: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The buckets that a text falls into, and its share of each; the shares have length 1 together."""
    different = [word.lower() for word in views.word_counts]
    hash_U = np.fromiter((zlib.crc32(word.encode()) for word in different), np.uint64, len(different))
    hash_W = hash_U[views.runs.id_W]
    pair_P = (hash_W[:-1] * MIX + hash_W[1:]) * MIX
    bucket_F = np.concatenate((hash_W * MIX, pair_P)) >> np.uint64(64 - buckets.bit_length() + 1)
    bucket, count = np.unique(bucket_F.astype(np.int64), return_counts=True)
    share = count.astype(np.float32)
    return bucket, share / max(float(np.sqrt((share * share).sum())), 1.0)


def probability(views: TextViews, weights: NDArray[np.float32], bias: float) -> float:
    """How probably a text belongs with the good ones."""
    bucket, share = features(views, len(weights))
    return sigmoid(float(weights[bucket] @ share) + bias)


def sigmoid(value: float) -> float:
    """The logistic function, for any size of argument."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else 1 - 1 / (1 + math.exp(value))


def model_digest(folder: Path) -> str:
    """What tells one model from another: the sha256 of its files."""
    load_model(folder)
    digest = hashlib.sha256((folder / SETTINGS).read_bytes())
    digest.update((folder / WEIGHTS).read_bytes())
    return digest.hexdigest()


def load_model(folder: Path) -> tuple[NDArray[np.float32], float]:
    """The weights and the bias of a model's folder."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not (folder / SETTINGS).is_file():
        raise UserError(
            f"corpus.steps: quality_score.model ({folder}) holds no {SETTINGS}; make a model with slm corpus score "
            "GOOD BAD FOLDER"
        )
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        weights: NDArray[np.float32] = load_file(folder / WEIGHTS)["weights"]
        if settings["format"] != FORMAT or weights.shape != (settings["buckets"],):
            raise ValueError(f"format {settings['format']}, {weights.shape[0]:,} weights")
        return weights, float(settings["bias"])
    except (ValueError, KeyError, OSError, SafetensorError) as error:
        reason = str(error)[:200]
        raise DamagedError(
            f"{folder} is no whole quality model ({reason}); make it again with slm corpus score GOOD BAD FOLDER"
        ) from error
