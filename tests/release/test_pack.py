"""The numbers again, from the bundle alone: its recipe makes the same text, on which its weights give the number."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest

import slm.corpus
from slm.compose import load_recipe
from slm.release.pack import located
from slm.release.verify import verify


@pytest.fixture
def copy(bundle, tmp_path):
    shutil.copytree(bundle.path, tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


@pytest.fixture
def numbers(bundle):
    return {one["number"]: one for one in json.loads(bundle.file("reproduce/numbers.json").read_text())}


def test_the_recipe_of_the_bundle_makes_the_same_corpus_and_the_weights_the_same_number(copy, numbers, monkeypatch):
    monkeypatch.chdir(copy / "reproduce")
    recipe = load_recipe("recipe=released", "runs_dir=../../again")
    corpus = slm.corpus.run(recipe)
    (manifest,) = (copy / "lineage").glob("corpus-*.json")
    assert corpus.manifest["files"] == json.loads(manifest.read_text())["files"]
    monkeypatch.setattr("slm.release.golden.missing_engine", lambda _: "an engine")
    words = numbers["bits per byte"]["command"].split()
    assert words[:3] == ["slm", "verify", ".."]
    assert words[3] == "corpus=../../again/tiny/corpus"
    checks = {check.name: check.found for check in verify(words[2:])}
    again = float(checks["bits per byte, measured again"].split(",")[0])
    assert again == pytest.approx(numbers["bits per byte"]["value"], abs=1e-5)


def test_every_setting_of_the_run_is_in_the_recipe(bundle, settings, monkeypatch):
    monkeypatch.chdir(bundle.path / "reproduce")
    recipe = load_recipe("recipe=released")
    assert recipe.model.width == settings["model"]["width"]
    assert recipe.train.tokens == settings["train"]["tokens"]
    assert recipe.evaluate.golden == "../evaluation/golden.jsonl"
    assert recipe.run == "tiny"


def test_paths_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    values = {"sources": [{"path": "texts/*.txt"}, {"path": "org/set"}, {"path": "s3://b/c"}], "title": "texts"}
    expected = [{"path": f"{tmp_path}/texts/*.txt"}, {"path": "org/set"}, {"path": "s3://b/c"}]
    assert located(values) == {"sources": expected, "title": "texts"}


def test_each_number_has_its_items_and_a_command(bundle, numbers):
    items = json.loads(bundle.file("reproduce/items.json").read_text())
    assert {"bits per byte", "golden prompts passed", "answers with personal data"} <= numbers.keys()
    assert all(one["items"] in items and one["command"].startswith("slm ") for one in numbers.values())
    documents = pq.read_table(bundle.file("evaluation/documents.parquet"))["id"].to_pylist()
    assert items["held_out_documents"] == documents
    assert items["golden_prompts"] == ["likely", "says something", "plain"]
    readme = bundle.file("reproduce/README.md").read_text()
    assert all(f"| {name} |" in readme for name in numbers)
    assert "tag `v1.0`" in readme


def test_contamination_is_told_in_words_that_can_be_quoted(bundle):
    text = bundle.file("reproduce/contamination.md").read_text()
    assert "| foxes | 21 | 1 | 0 | 20 |" in text
    assert "1 were left out of the corpus" in text


def test_texts_of_evaluations_are_not_published(bundle):
    assert "evaluation/items.parquet" not in bundle.manifest["files"]
    assert "prompt" not in json.loads(bundle.file("reproduce/items.json").read_text())
