"""Step `unicode`: ftfy's repair and one normal form, repeated until nothing changes.

ftfy looks at every line with some forty regular expressions. Lines that it cannot change are told by two searches and
passed by, which makes plain text about a hundred times faster and leaves the result the same: ASCII without control
characters (and without `&` where entities are decoded), and other text without control characters that ftfy's own
test of badness finds good.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import ftfy
from ftfy.badness import is_bad

from slm.corpus.cleaning.config import UnicodeStep
from slm.corpus.cleaning.views import Notes, TextViews

REPAIRABLE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u206a-\u206f\ufeff\ufff9-\ufffc\ud800-\udfff]")
"""Characters that ftfy may remove or replace one by one."""
ROUNDS = 8
"""Composing can complete a misread sequence that was broken before; texts need two rounds, crafted ones a few."""


def build(config: UnicodeStep) -> Callable[[TextViews, Notes], str]:
    """The step: a text to its repaired form; never drops."""
    settings = ftfy.TextFixerConfig(
        unescape_html="auto" if config.unescape_html else False,
        remove_terminal_escapes=config.repair,
        fix_encoding=config.repair,
        fix_c1_controls=config.repair,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=config.repair,
        remove_control_chars=config.repair,
        normalization=None,
        explain=False,
    )

    def once(text: str) -> str:
        if config.repair or config.unescape_html:
            text = repaired(text, settings)
        if config.normal_form != "none" and not text.isascii():
            text = unicodedata.normalize(config.normal_form, text)
        return text

    def clean(views: TextViews, _notes: Notes) -> str:
        text = views.text
        for _ in range(ROUNDS):
            fixed = once(text)
            if fixed == text:
                break
            text = fixed
        return views.text if text == views.text else text

    return clean


def repaired(text: str, settings: ftfy.TextFixerConfig) -> str:
    """What `ftfy.fix_text(text, settings)` gives."""
    entities = bool(settings.unescape_html)
    if text.isascii() and not (entities and "&" in text) and not REPAIRABLE.search(text):
        return text
    lines = []
    for line in _lines(text):
        if entities and "<" in line:
            entities, settings = False, settings._replace(unescape_html=False)  # this is HTML; from here on, as it is
        touched = (entities and "&" in line) or REPAIRABLE.search(line) or (not line.isascii() and is_bad(line))
        lines.append(ftfy.fix_text(line, settings) if touched else line)
    return "".join(lines)


def _lines(text: str) -> list[str]:
    """The lines with their line feeds; other separators are content."""
    pieces = text.split("\n")
    return [f"{piece}\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])
