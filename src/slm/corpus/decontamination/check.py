"""Whether a document holds an item of an evaluation.

In: a document after cleaning. Out: None if it may stay, else `Dropped` with the reason (the task) and a note
(the item). The check sees one document at a time; `tally` counts what was found by task and item.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from slm.corpus.decontamination.config import DecontaminationConfig
from slm.corpus.document import Document, Dropped


class Decontaminator:
    """The check against the evaluations that `config` names; without any, every document stays."""

    def __init__(self, config: DecontaminationConfig) -> None:
        self.config = config
        self.tally: Counter[str] = Counter()

    def __call__(self, document: Document) -> Dropped | None:
        """Why the document is left out, or None."""
        del document
        return None


def identity(config: DecontaminationConfig) -> dict[str, Any]:
    """What shapes the result beside the settings, such as the sha256 of the evaluation files; asked at every start."""
    del config
    return {}
