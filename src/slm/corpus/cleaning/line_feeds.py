"""Step `line_feeds`: every line end as one line feed, so that a vocabulary spends nothing on the others.

A text without a carriage return is returned as it is. Other separators of Unicode (U+0085, U+2028) are content.
"""

from __future__ import annotations

from collections.abc import Callable

from slm.corpus.cleaning.config import LineFeedsStep
from slm.corpus.cleaning.views import Notes, TextViews


def build(_: LineFeedsStep) -> Callable[[TextViews, Notes], str]:
    """The step: a text to its form with line feeds; never drops."""
    return lambda views, _notes: views.text.replace("\r\n", "\n").replace("\r", "\n")
