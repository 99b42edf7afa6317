"""What the report tells of a corpus from its manifests; the data card's own sections are tested in test_card."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from slm.core.artifact import Artifact
from slm.recipe import Recipe
from slm.report.data import essentials
from slm.report.gather import Run, finished_artifacts, gather

Make = Callable[..., dict[str, Artifact]]


@pytest.fixture
def run(recipe: Recipe, make_run: Make) -> Run:
    make_run(recipe)
    return gather(recipe, finished_artifacts(recipe))


def test_sources_splits_and_what_was_left_out_are_told_without_reading_documents(run: Run) -> None:
    section = essentials(run)
    assert [table.caption for table in section.tables] == ["Sources", "Left out, by reason"]
    assert section.tables[0].rows[0][:4] == ("stdlib", "720", "10.5 MB", "5,411,220")
    assert section.tables[1].rows == [("mostly repeated lines", "88"), ("generated table", "83"), ("duplicate", "1")]
    assert [fact.value for fact in section.facts] == ["679 documents", "41 documents", "172 documents"]
    words = " ".join(section.remarks)
    for told in ("names no evaluation", "repeat each other is not recorded", "slm card run=synthetic"):
        assert told in words


def test_licences_and_languages_are_told_in_tokens_where_the_rows_recorded_them(run: Run) -> None:
    shards = run.artifacts["shards"]
    licences = {"MIT": {"documents": 2, "tokens": 10}, "PSF-2.0": {"documents": 9, "tokens": 1_000}}
    counted = Artifact(shards.path, {**shards.manifest, "counts": {**shards.counts, "licences": licences}})
    tables = essentials(replace(run, artifacts={**run.artifacts, "shards": counted})).tables
    assert tables[1].caption == "Trained on, by licence"
    assert tables[1].rows == [("PSF-2.0", "9", "1,000"), ("MIT", "2", "10")]


def test_without_the_corpus_at_hand_the_command_that_makes_it_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["slm report", "recipe=smoke"])
    assert essentials(replace(run, artifacts={"train": run.artifacts["train"]})).missing == "slm corpus recipe=smoke"
