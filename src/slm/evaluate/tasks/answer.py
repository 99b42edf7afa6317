"""Questions with a short answer that is written and not chosen: GSM8K's numbers, SQuAD's and XQuAD's spans.

In: items with the answers that count. Out: per item the row `exact_match`, and for squad `f1` over words. GSM8K's
number is what follows ####, as in its solutions, else the last number written; 1,000 and $1000.00 are the same. SQuAD's
answers are compared as its own script does: lower case, without punctuation and English articles, against the nearest
of those given. The model writes greedily up to where an example would begin anew. An item whose prompt and longest
answer do not fit the context is left out and counted.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from slm.evaluate.generation import Prompt
from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.config import TaskConfig
from slm.evaluate.tasks.items import Numbered
from slm.evaluate.tasks.items_table import Result
from slm.evaluate.tasks.outcome import Outcome

STOPS = {"gsm8k": ("Question:", "\n\n\n"), "squad": ("\n",)}
LONGEST = {"gsm8k": 256, "squad": 32}
NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def run_answer(scorer: Scorer, config: TaskConfig, items: Sequence[Numbered], examples: str) -> Outcome:
    """Let every question be answered, and judge the answers."""
    outcome, most = Outcome(), config.max_tokens or min(LONGEST[config.layout], scorer.context_tokens // 2)
    asked: list[tuple[Numbered, Prompt]] = []
    for one in items:
        ids = scorer.prompt_ids(examples + one.item.prompt, chat=config.chat)
        if len(ids) + most > scorer.context_tokens:
            outcome.skip("longer than the context")
        else:
            asked.append((one, Prompt(ids, most, STOPS[config.layout])))
    answers = scorer.answers([prompt for _, prompt in asked], config.name)
    for (one, prompt), answer in zip(asked, answers, strict=True):
        for metric, value in judged(config.layout, answer, one.item.answers[1:]).items():
            outcome.results.append(
                Result(
                    config.name,
                    one.id,
                    metric,
                    value,
                    examples + one.item.prompt,
                    len(prompt.ids),
                    answer=answer,
                    clean=one.clean,
                    source=config.layout,
                    language=config.language or None,
                )
            )
    return outcome


def judged(layout: str, answer: str, accepted: Sequence[str]) -> dict[str, float]:
    """What an answer is worth beside those that count."""
    if layout == "gsm8k":
        return {"exact_match": float(last_number(answer) == last_number(accepted[0]) is not None)}
    words, others = normalised(answer), [normalised(one) for one in accepted]
    return {"exact_match": float(words in others), "f1": max(overlap(words, other) for other in others)}


def last_number(text: str) -> float | None:
    """The number after ####, or else the last one; None where there is none."""
    found = NUMBER.findall(text.rpartition("####")[2]) if "####" in text else NUMBER.findall(text)[-1:]
    return float(found[0].replace(",", "").replace("$", "")) if found else None


def normalised(text: str) -> list[str]:
    """The words that count."""
    return ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split()


def overlap(words: Sequence[str], other: Sequence[str]) -> float:
    """Harmonic mean of the shares of words that each has in common with the other."""
    shared = sum((Counter(words) & Counter(other)).values())
    return 2 * shared / (len(words) + len(other)) if shared else float(not words and not other)
