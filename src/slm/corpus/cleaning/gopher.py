"""Steps `gopher_quality` and `gopher_repetition`: the rules of Gopher, in the order and by the reading of datatrove.

What the paper leaves open (what a word is, what a share is of) follows datatrove's filters, whose decisions these
repeat; the reasons are ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

from slm.corpus.cleaning.config import GopherQualityStep, GopherRepetitionStep
from slm.corpus.cleaning.views import Notes, TextViews, exceeds
from slm.corpus.cleaning.words import SYMBOLS
from slm.corpus.document import Dropped

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
PARAGRAPHS = re.compile(r"\n{2,}")
LINES = re.compile(r"\n+")


def quality(config: GopherQualityStep) -> Callable[[TextViews, Notes], str | Dropped]:
    """The step `gopher_quality`."""

    def clean(views: TextViews, _notes: Notes) -> str | Dropped:
        reason = _word_reason(views, config) or _line_reason(views, config) or _alphabet_reason(views, config)
        return Dropped(reason) if reason else views.text

    return clean


def repetition(config: GopherRepetitionStep) -> Callable[[TextViews, Notes], str | Dropped]:
    """The step `gopher_repetition`."""

    def clean(views: TextViews, _notes: Notes) -> str | Dropped:
        reason = _repeated_pieces(views.text, config) or _repeated_runs(views, config)
        return Dropped(reason) if reason else views.text

    return clean


def duplicates(pieces: Iterable[str]) -> tuple[int, int]:
    """How many pieces occurred before, and their characters."""
    seen: set[str] = set()
    count = characters = 0
    for piece in pieces:
        if piece in seen:
            count += 1
            characters += len(piece)
        else:
            seen.add(piece)
    return count, characters


def _word_reason(views: TextViews, config: GopherQualityStep) -> str:
    spelt = {word: count for word, count in views.word_counts.items() if not SYMBOLS.issuperset(word)}
    words = sum(spelt.values())
    if words < config.min_words:
        return "short"
    if exceeds(words, config.max_words):
        return "long"
    if not words:
        return ""
    mean = sum(len(word) * count for word, count in spelt.items()) / words
    if mean < config.min_mean_word_length:
        return "short_words"
    return "long_words" if exceeds(mean, config.max_mean_word_length) else ""


def _line_reason(views: TextViews, config: GopherQualityStep) -> str:
    text, words, lines = views.text, max(len(views.words), 1), views.text.splitlines()
    if exceeds(text.count("#") / words, config.max_symbols_per_word):
        return "hash_signs"
    if exceeds((text.count("...") + text.count("…")) / words, config.max_symbols_per_word):
        return "ellipses"
    bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
    if exceeds(bullets / max(len(lines), 1), config.max_bullet_lines):
        return "bullet_lines"
    ellipses = sum(line.rstrip().endswith(("...", "…")) for line in lines)
    return "ellipsis_lines" if exceeds(ellipses / max(len(lines), 1), config.max_ellipsis_lines) else ""


def _alphabet_reason(views: TextViews, config: GopherQualityStep) -> str:
    counts = views.word_counts.items()
    alphabetic = sum(count for word, count in counts if word.isalpha() or any(map(str.isalpha, word)))
    if alphabetic / max(len(views.words), 1) < config.min_alphabetic_words:
        return "few_letters"
    return "few_stop_words" if len(STOP_WORDS & views.word_counts.keys()) < config.min_stop_words else ""


def _repeated_pieces(text: str, config: GopherRepetitionStep) -> str:
    characters = max(len(text), 1)
    paragraphs = PARAGRAPHS.split(text.strip())
    count, repeated = duplicates(paragraphs)
    if exceeds(count / len(paragraphs), config.max_duplicate_paragraphs):
        return "duplicate_paragraphs"
    if exceeds(repeated / characters, config.max_duplicate_paragraph_characters):
        return "duplicate_paragraph_characters"
    lines = LINES.split(text)
    count, repeated = duplicates(lines)
    if exceeds(count / len(lines), config.max_duplicate_lines):
        return "duplicate_lines"
    if exceeds(repeated / characters, config.max_duplicate_line_characters):
        return "duplicate_line_characters"
    return ""


def surely_within(most: float, characters: int) -> float:
    """So many of the characters are within the limit however the division is rounded; all are where there is none."""
    return most * characters * (1 - 1e-9) if most else math.inf


def _repeated_runs(views: TextViews, config: GopherRepetitionStep) -> str:
    characters = max(len(views.text), 1)
    for length, most in config.max_top_ngrams.items():
        if exceeds(views.runs.top_characters(length, surely_within(most, characters)) / characters, most):
            return f"top_{length}_gram"
    for length, most in config.max_duplicate_ngrams.items():
        if exceeds(views.runs.repeated_characters(length, surely_within(most, characters)) / characters, most):
            return f"duplicate_{length}_grams"
    return ""
