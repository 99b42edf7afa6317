"""Multiple choice by likelihood: which choice the model finds likeliest, as a whole and per byte.

In: items with choices. Out: per item the rows `acc` (the sum of log-probabilities decides) and `acc_bytes` (that sum
over the choice's UTF-8 bytes, without the space before it, decides, so that long choices are not at a disadvantage),
lm-eval's measures of the same names. Of choices that tie, the first is taken. An item with a choice that does not fit
the model's context is left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.config import TaskConfig
from slm.evaluate.tasks.items import Numbered
from slm.evaluate.tasks.items_table import Result
from slm.evaluate.tasks.outcome import Outcome
from slm.evaluate.tree import Request


def run_choice(scorer: Scorer, config: TaskConfig, items: Sequence[Numbered], examples: str) -> Outcome:
    """Judge every item."""
    outcome = Outcome()
    requests: list[Request] = []
    asked: list[Numbered] = []
    for one in items:
        pairs = [scorer.pair(examples + one.item.prompt, choice, chat=config.chat) for choice in one.item.choices]
        whole = [pair for pair in pairs if pair is not None]
        if len(whole) < len(pairs):
            outcome.skip("longer than the context")
            continue
        requests += whole
        asked.append(one)
    found = scorer.likelihoods(requests, config.name)
    first = 0
    for one in asked:
        mine = slice(first, first + len(one.item.choices))
        first = mine.stop
        logprobs = [likelihood.logprob for likelihood in found[mine]]
        kind = (config.name, config.layout, config.language or None)
        outcome.results += judged(kind, one, examples, logprobs, requests[mine.start].first)
    return outcome


def judged(
    kind: tuple[str, str, str | None], one: Numbered, examples: str, logprobs: Sequence[float], prompt_tokens: int
) -> list[Result]:
    """Both rows of one item; `kind` is its task, its source and its language."""
    item = one.item
    num_bytes = [len(choice.removeprefix(" ").encode("utf-8", "surrogatepass")) for choice in item.choices]
    taken = {
        "acc": int(np.argmax(logprobs)),
        "acc_bytes": int(np.argmax(np.array(logprobs) / np.maximum(num_bytes, 1))),
    }
    return [
        Result(
            kind[0],
            one.id,
            metric,
            float(choice == item.gold),
            examples + item.prompt,
            prompt_tokens,
            chance=1 / len(item.choices),
            choices=item.choices,
            gold=item.gold,
            choice_logprobs=logprobs,
            choice_bytes=num_bytes,
            answer=item.choices[choice],
            clean=one.clean,
            source=kind[1],
            language=kind[2],
        )
        for metric, choice in taken.items()
    ]
