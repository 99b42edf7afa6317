"""The same items, asked of models that know nothing: what a score is worth is how far it lies above theirs.

In: the scorer of the evaluated model, and how often each token is a target in training rows. Out: one control after
the other as a scorer of its own, which tasks take as they take the model's, and whose answers are kept as its are.

- random: the model's shape with the weights that `build` draws for the recipe's seed, those from which a training of
  that seed began. Its choices show what lengths and the tokenizer alone decide, which chance leaves out. It costs
  what the model does, and more where answers are written, since it hardly ever ends one.
- unigram: each token with its share of training rows, one added to each of the vocabulary, whatever stands before.
  It is a transformer of one layer that adds nothing, with the logarithms of those shares as its head, so it takes no
  code of its own. Where answers are written greedily it repeats the most frequent token, as that rule has it.

Neither is asked for answers that a judge rates: verdicts on noise cost as much as others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from slm.core.console import say
from slm.evaluate.config import Control
from slm.evaluate.journal import Journal, key_of
from slm.evaluate.scorer import Scorer
from slm.model.config import ModelConfig
from slm.model.transformer import Transformer, build


def controls(
    names: Sequence[Control], scorer: Scorer, train_V: NDArray[np.int64], seed: int, folder: Path, asked: str
) -> Iterator[tuple[Control, Scorer]]:
    """Each control with its scorer, which is good until the next; answers go into `folder`, under `asked` and more."""
    device, config = next(scorer.model.parameters()).device, scorer.model.config
    for name in names:
        model = build(config, seed) if name == "random" else unigram(train_V, config.max_seq_len)
        precision: Literal["fp32", "bf16"] = scorer.precision if name == "random" else "fp32"
        with Journal(folder / f"{key_of(asked, name, seed)}.jsonl") as journal:
            if journal.resumed:
                say(f"evaluate: {name} control: going on from {journal.resumed:,} answers")
            model.to(device).eval()
            label = f"{name} control, "
            yield name, replace(scorer, model=model, precision=precision, journal=journal, label=label)


def unigram(train_V: NDArray[np.int64], max_seq_len: int) -> Transformer:
    """A transformer that gives every token its share of `train_V` with one added, after any context."""
    config = ModelConfig(
        vocab_size=len(train_V), width=8, layers=1, heads=1, kv_heads=1, head_dim=16, ffn_width=8,
        max_seq_len=max_seq_len, tie_embeddings=False, residual_init="zero",
    )  # fmt: skip
    model = build(config, 0)
    assert model.head is not None
    shares_V = torch.from_numpy((train_V + 1) / (train_V.sum() + len(train_V)))
    with torch.no_grad():
        model.embedding.weight.fill_(1)
        model.head.weight.zero_()
        model.head.weight[:, 0] = shares_V.log() * math.sqrt(1 + config.norm_eps)  # which the norm divides by
    return model
