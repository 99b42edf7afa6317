"""Bits per byte of each text of a file, such as the sentences of FLORES in one language.

In: items whose prompt is a text. Out: a row `bits_per_byte` each, over the text's tokens after the start token, the
end of text not among them, for a sentence ends nowhere. Texts that do not fit the model's context are left out and
counted: they belong into held-out documents, which are scored in windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.config import TaskConfig
from slm.evaluate.tasks.items import Numbered
from slm.evaluate.tasks.items_table import Result
from slm.evaluate.tasks.outcome import Outcome


def run_text(scorer: Scorer, config: TaskConfig, items: Sequence[Numbered], examples: str) -> Outcome:
    """Score every text."""
    del examples
    outcome = Outcome()
    pairs = [(one, scorer.pair("", one.item.prompt)) for one in items if one.item.prompt]
    if len(pairs) < len(items):
        outcome.skip("empty", len(items) - len(pairs))
    fitting = [(one, pair) for one, pair in pairs if pair is not None]
    if len(fitting) < len(pairs):
        outcome.skip("longer than the context", len(pairs) - len(fitting))
    found = scorer.likelihoods([pair for _, pair in fitting], config.name)
    for (one, _), likelihood in zip(fitting, found, strict=True):
        num_bytes = len(one.item.prompt.encode("utf-8", "surrogatepass"))
        outcome.results.append(
            Result(
                config.name,
                one.id,
                "bits_per_byte",
                -likelihood.logprob / math.log(2) / num_bytes,
                "",
                1,
                choices=(one.item.prompt,),
                choice_logprobs=(likelihood.logprob,),
                choice_bytes=(num_bytes,),
                clean=one.clean,
                source=config.layout,
                language=config.language or None,
            )
        )
    return outcome
