"""Step `c4`: the line and page rules of C4, in the order and by the reading of datatrove.

Deleting a citation can make a line new to the rules (`[[1]]` leaves `[]`, `[1] Yes it` leaves two words), so the rules
run until they change nothing: what they kept, they keep again. datatrove runs them once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from slm.corpus.cleaning.config import C4Step
from slm.corpus.cleaning.views import Notes, TextViews, exceeds
from slm.corpus.cleaning.words import count_sentences
from slm.corpus.document import Dropped

CITATIONS = re.compile(r"\[(?:\d*|edit|citation needed)\]")
ENDS = (".", "?", "!", '"', "'")
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def build(config: C4Step) -> Callable[[TextViews, Notes], str | Dropped]:
    """The step: a text to its kept lines, or dropped."""

    def clean(views: TextViews, notes: Notes) -> str | Dropped:
        text, lines_left_out = views.text, Counter[str]()
        while True:
            result = once(text, config, lines_left_out)
            if isinstance(result, Dropped) or result == text:
                break
            text = result
        if isinstance(result, Dropped):
            return result
        notes.counts.update({f"c4/{rule} lines": count for rule, count in lines_left_out.items()})
        return views.text if text == views.text else text

    return clean


def once(text: str, config: C4Step, lines_left_out: Counter[str]) -> str | Dropped:
    """The rules run once; `lines_left_out` counts by rule."""
    kept: list[str] = []
    sentences = 0
    for raw in text.splitlines():
        line = CITATIONS.sub("", raw.strip()) if config.citations else raw.strip()
        lowered = line.lower()
        rule = _rule_against(raw, line, config)
        if rule:
            lines_left_out[rule] += 1
        elif config.lorem_ipsum and "lorem ipsum" in lowered:
            return Dropped("lorem_ipsum")
        elif config.javascript and "javascript" in lowered:
            lines_left_out["javascript"] += 1
        elif config.curly_bracket and "{" in line:
            return Dropped("curly_bracket")
        elif config.policies and any(phrase in lowered for phrase in POLICIES):
            lines_left_out["policy"] += 1
        else:
            if sentences < config.min_sentences:
                sentences += count_sentences(line)
            kept.append(line)
    if sentences < config.min_sentences:
        return Dropped("few_sentences")
    return "\n".join(kept).strip()


def _rule_against(raw: str, line: str, config: C4Step) -> str:
    """The rule on its form that a line breaks, if any; `raw` still has its citations."""
    words = raw.split()
    if len(raw) > config.max_word_length and exceeds(max(map(len, words), default=0), config.max_word_length):
        return "long_word"
    if config.terminal_punctuation and (not line.endswith(ENDS) or line.endswith("...")):
        return "unpunctuated"
    if len(words) < config.min_words_per_line:
        return "short"
    return ""
