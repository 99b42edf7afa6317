"""Canaries: the same everywhere, no near duplicates, and still in the corpus after everything that cleans it."""

from __future__ import annotations

from collections import Counter

import pytest

import slm.corpus
from slm.corpus import read_documents
from slm.corpus.config import CanariesConfig, CorpusConfig
from slm.corpus.sources.canaries import SENTENCE, canaries
from slm.recipe import build_recipe

SETTINGS = CanariesConfig(repeats=(1, 5), count=4)


def test_the_same_settings_make_the_same_secrets_and_controls_are_others():
    planted = canaries(SETTINGS)
    assert planted == canaries(SETTINGS)
    assert [one.repeats for one in planted] == [1] * 4 + [5] * 4
    assert len({one.secret for one in planted}) == len({one.name for one in planted}) == 8
    assert {len(one.secret) for one in planted} == {6}
    controls = canaries(SETTINGS, controls=True)
    assert not {one.name for one in controls} & {one.name for one in planted}
    assert {one.repeats for one in controls} == {0}
    assert canaries(SETTINGS.model_copy(update={"seed": 2})) != planted


def test_every_canary_survives_cleaning_and_deduplication_as_often_as_it_was_planted(tmp_path):
    (tmp_path / "a.txt").write_text("Some other text.\n")
    sources = [
        {"kind": "canaries", "planted": SETTINGS.model_dump()},
        {"kind": "text", "path": str(tmp_path / "a.txt"), "licence": "MIT"},
    ]
    steps = [{"step": "unicode"}, {"step": "pii"}]
    corpus = {"sources": sources, "steps": steps, "validation_fraction": 0.2}
    made = slm.corpus.run(build_recipe({"runs_dir": str(tmp_path / "runs"), "corpus": corpus}))
    assert made is not None
    documents = [one for split in ("train", "validation") for one in read_documents(made, split)]
    found = Counter(sentence for one in documents for sentence in SENTENCE.findall(one.text))
    assert found == {one.text: one.repeats for one in canaries(SETTINGS)}
    assert made.counts["sources"]["canaries"]["licence"] == "CC0-1.0"


def test_settings_of_canaries_mean_nothing_elsewhere_and_must_plant_something():
    with pytest.raises(ValueError, match="planted has no effect on kind stdlib"):
        CorpusConfig.model_validate({"sources": [{"kind": "stdlib", "planted": {"count": 3}}]})
    with pytest.raises(ValueError, match="needs different numbers from 1 on"):
        CanariesConfig(repeats=(0, 4))
