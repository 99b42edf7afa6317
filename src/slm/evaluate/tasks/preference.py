"""Preference accuracy: how often a model finds the chosen one of two held-out answers likelier than the rejected one.

In: the held-out documents of a corpus of pairs. Out: a multiple-choice task `preference` of two choices, so per pair
the rows `acc` (the answers' log-probabilities decide, end of turn included) and `acc_bytes` (those over their bytes, so
that short answers are not ahead), through the chat template and without a reference, which is why models of any
training stand side by side. The common prompt is computed once. A pair that exceeds the model's context is left out and
counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slm.core.artifact import Artifact
from slm.corpus import Document, read_documents
from slm.corpus.conversations import messages_of, rejected_of
from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.choice import judged
from slm.evaluate.tasks.items import Numbered
from slm.evaluate.tasks.layouts import Item
from slm.evaluate.tasks.outcome import Outcome
from slm.evaluate.tree import Request
from slm.shards.encode import encode, sides_of
from slm.shards.units import preferences_of

PREFERENCE = "preference"


def held_out_pairs(corpus: Artifact | None, most: int) -> list[Document]:
    """The held-out documents of a corpus of pairs, or `most` of them at even distances; none of another corpus."""
    if corpus is None or preferences_of(corpus) != "pairs":
        return []
    pairs = list(read_documents(corpus, "validation"))
    chosen = np.unique(np.linspace(0, len(pairs) - 1, most).round().astype(int)) if 0 < most < len(pairs) else None
    return pairs if chosen is None else [pairs[number] for number in chosen]


def run_preference(scorer: Scorer, pairs: Sequence[Document]) -> Outcome:
    """Judge every pair."""
    outcome = Outcome()
    asked: list[Document] = []
    requests: list[Request] = []
    for document, ids in encode(pairs, scorer.tokenizer, 1):
        both = []
        for _, (ids_T, learned_T) in sides_of(document, ids, scorer.tokenizer):
            assert learned_T is not None
            told = np.flatnonzero(learned_T)
            both.append(Request(ids_T[: told[-1] + 1], int(told[0])))
        if max(len(request.ids) - 1 for request in both) > scorer.context_tokens:
            outcome.skip("longer than the context")
            continue
        asked.append(document)
        requests += both
    found = scorer.likelihoods(requests, PREFERENCE)
    for number, document in enumerate(asked):
        *before, chosen = messages_of(document)
        prompt = "\n\n".join(message.content for message in before)
        item = Item(prompt, (chosen.content, rejected_of(document)[-1].content), 0)
        logprobs = [likelihood.logprob for likelihood in found[2 * number : 2 * number + 2]]
        kind = (PREFERENCE, document.source, document.metadata.get("language"))
        outcome.results += judged(kind, Numbered(document.id, item, None), "", logprobs, requests[2 * number].first)
    return outcome
