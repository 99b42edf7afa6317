"""The cleaning steps of a recipe as one function of a document.

In: a document and the steps in their order. Out: the document, changed or as it is, or `Dropped` with the
reason of the first step that drops it. A step sees one document and keeps nothing, so that the result depends
neither on the order of documents nor on how they are divided among processes.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from slm.corpus.cleaning.config import StepConfig
from slm.corpus.document import Document, Dropped

Step = Callable[[Document], Document | Dropped]


class Cleaner:
    """The steps of `config`, applied in order; `tally` counts what they did to documents that stay."""

    def __init__(self, config: Sequence[StepConfig]) -> None:
        self.tally: Counter[str] = Counter()
        self._steps: list[Step] = [STEPS[step.name] for step in config]

    def __call__(self, document: Document) -> Document | Dropped:
        """The document after all steps, or why it is left out."""
        for step in self._steps:
            result = step(document)
            if isinstance(result, Dropped):
                return result
            document = result
        return document


def identity(config: Sequence[StepConfig]) -> dict[str, Any]:
    """What shapes the result beside the settings, such as versions of tables; cheap, asked at every start."""
    return {"unicode": unicodedata.unidata_version} if any(step.name == "nfc" for step in config) else {}


def _nfc(document: Document) -> Document:
    return replace(document, text=unicodedata.normalize("NFC", document.text))


STEPS: dict[str, Step] = {"nfc": _nfc}
