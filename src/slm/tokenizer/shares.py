"""How much of each source a vocabulary is learned from: as much as the model will be trained on.

In: `shards.mixture`, the bytes of each source, the tokens of the training. Out: a weight for each source, its share of
all text that the stages read. A stage by weights is worth its tokens, one by epochs the text that it reads; both are
compared in bytes, at `BYTES_A_TOKEN`, since the tokenizer that would tell is yet to be learned. Only where stages of
both kinds stand together does that number matter. A last stage by weights that says no length takes what of the
training is left, so that there, and only there, the weights and with them the vocabulary follow `train.tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from slm.core.errors import UserError

if TYPE_CHECKING:
    from slm.core.artifact import Artifact
    from slm.shards.config import MixtureStage

BYTES_A_TOKEN = 4
"""Of English text and vocabularies of some ten thousand pieces, about."""


def bytes_of_sources(corpus: Artifact) -> dict[str, int]:
    """About how many bytes of each source are in the train split."""
    total = int(corpus.counts["train"]["bytes"])
    trained = total / max(total + corpus.counts["validation"]["bytes"], 1)
    return {name: int(trained * figures["bytes"]) for name, figures in corpus.counts["sources"].items()}


def shares_of_mixture(stages: Sequence[MixtureStage], held: Mapping[str, int], train_tokens: int) -> dict[str, float]:
    """The share of each source of `held`, in bytes, in what the stages read; together 1."""
    read, left = dict.fromkeys(held, 0.0), float(train_tokens * BYTES_A_TOKEN)
    for stage in stages:
        unknown = [entry.source for entry in stage.sources if entry.source not in held]
        if unknown:
            raise UserError(
                f"shards.mixture.{stage.name}.{unknown[0]}: the corpus holds no such source, only {', '.join(held)}; "
                "correct it"
            )
        amounts = {entry.source: entry.weight or entry.epochs * held[entry.source] for entry in stage.sources}
        whole = sum(amounts.values())
        by_epochs = bool(stage.sources[0].epochs)
        length = stage.tokens * BYTES_A_TOKEN or (whole if by_epochs else left if len(stages) > 1 else whole)
        for name, amount in amounts.items():
            read[name] += length * amount / max(whole, 1e-9)
        left = max(left - length, 0.0)
    total = sum(read.values())
    return {name: round(amount / total, 6) if total else 0.0 for name, amount in read.items()}
