"""Steps run as tests want them: settings in, texts or reasons out."""

from __future__ import annotations

from typing import Any

from slm.corpus.cleaning.cleaner import Cleaner
from slm.corpus.config import CorpusConfig
from slm.corpus.document import Document, Dropped


def cleaner(*steps: dict[str, Any]) -> Cleaner:
    """A cleaner of these steps."""
    return Cleaner(CorpusConfig.model_validate({"steps": list(steps)}).steps)


def document(text: str, name: str = "d", **metadata: str) -> Document:
    """A document of a source named s."""
    return Document(text, f"s/{name}", "s", "CC0-1.0", "made here", metadata)


def clean(text: str, step: str, **settings: Any) -> str:
    """The text after one step; a dropped one fails the test."""
    result = cleaner({"step": step, **settings})(document(text))
    assert isinstance(result, Document), f"dropped: {result}"
    return result.text


def reason(text: str, step: str, **settings: Any) -> str:
    """Why one step drops the text, without the step's name; empty where it keeps it."""
    result = cleaner({"step": step, **settings})(document(text))
    return result.reason.removeprefix(f"{step}/") if isinstance(result, Dropped) else ""
