"""Step `fineweb_quality`: FineWeb's rules on lines, in the order and by the reading of datatrove."""

from __future__ import annotations

from collections.abc import Callable

from slm.corpus.cleaning.config import FineWebQualityStep
from slm.corpus.cleaning.gopher import duplicates
from slm.corpus.cleaning.views import Notes, TextViews, exceeds
from slm.corpus.cleaning.words import TERMINAL_MARKS
from slm.corpus.document import Dropped


def build(config: FineWebQualityStep) -> Callable[[TextViews, Notes], str | Dropped]:
    """The step: a text as it is, or dropped."""

    def clean(views: TextViews, _notes: Notes) -> str | Dropped:
        reason = _line_reason(views.text, config) or _list_reason(views, config)
        return Dropped(reason) if reason else views.text

    return clean


def _line_reason(text: str, config: FineWebQualityStep) -> str:
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    if not lines:
        return "empty"
    if sum(line[-1] in TERMINAL_MARKS for line in lines) / len(lines) < config.min_punctuated_lines:
        return "unpunctuated_lines"
    short = sum(len(line) <= config.short_line_characters for line in lines)
    if exceeds(short / len(lines), config.max_short_lines):
        return "short_lines"
    characters = len(text) - text.count("\n")
    if exceeds(duplicates(lines)[1] / characters, config.max_duplicate_line_characters):
        return "duplicate_line_characters"
    return ""


def _list_reason(views: TextViews, config: FineWebQualityStep) -> str:
    newlines = views.text.count("\n")
    if not exceeds(newlines / len(views.text.split()), config.max_newlines_per_word):
        return ""  # there are at least as many words as white space separates, and those are counted faster
    return "list" if exceeds(newlines / len(views.words), config.max_newlines_per_word) else ""
