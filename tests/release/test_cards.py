"""The cards of a bundle, as the hub's own library reads them."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from huggingface_hub import DatasetCard, ModelCard

from slm.core.artifact import Artifact
from slm.release.cards import results, use
from slm.release.evidence import collect
from slm.release.pack import _numbers
from slm.release.sbom import model


@pytest.fixture(scope="module")
def card(bundle: Artifact) -> ModelCard:
    return ModelCard.load(bundle.file("README.md"))


def test_the_hub_reads_licence_library_and_results(card, bundle):
    found = json.loads(bundle.file("evaluation/results.json").read_text())
    bits_per_byte = found["validation"]["bits_per_byte"]
    assert card.data.license == "apache-2.0"
    assert card.data.to_dict()["library_name"] == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.tags == ["gguf"]
    assert card.data.model_name == "tiny"
    (found,) = card.data.eval_results
    assert (found.metric_type, found.metric_value) == ("bits_per_byte", bits_per_byte)
    assert found.dataset_name == "held-out text of the corpus"


def test_the_text_names_files_figures_licences_and_ways_to_check(card):
    text = re.sub(r"\\", "", card.text)
    for words in (
        "hf", "gguf_f32", "bits per byte", "95 % interval", "answers with personal data", "at most 0.9", "MIT",
        "sha256sum -c SHA256SUMS", "slm verify .", "reproduce/README.md", "data/README.md", "v1.0", "golden prompts",
        "was not trained to follow instructions", "Personal data was not taken out",
    ):  # fmt: skip
        assert words in text, words


def test_a_model_in_parts_is_run_by_its_first(recipe_of, tmp_path):
    recipe = recipe_of()
    release = recipe.release.model_copy(update={"formats": ("gguf_f32",)})
    evidence = replace(collect(recipe), recipe=recipe.model_copy(update={"release": release}))
    whole = evidence.artifacts["export"]
    (tmp_path / "model-f32-00001-of-00002.gguf").touch()
    evidence.artifacts["export"] = replace(whole, path=tmp_path)
    (code,) = use(evidence).codes
    assert code.text == "llama-cli -m model-f32-00001-of-00002.gguf -p Once -n 32\n"


def test_onnx_files_are_named_with_their_engine_and_their_data(recipe_of, tmp_path):
    recipe = recipe_of()
    release = recipe.release.model_copy(update={"formats": ("onnx", "onnx_int8")})
    evidence = replace(collect(recipe), recipe=recipe.model_copy(update={"release": release}))
    (code,) = use(evidence).codes
    assert 'ORTModelForCausalLM.from_pretrained("onnx_int8")' in code.text
    files = {"onnx/config.json", "onnx/model.onnx", "onnx/model.onnx_data"}
    (tmp_path / "bundle" / "onnx").mkdir(parents=True)
    for file in files:
        (tmp_path / "bundle" / file).write_text(file)
    components = model(evidence, tmp_path / "bundle")["components"]
    assert {one["name"] for one in components} == files - {"onnx/config.json"}


def test_every_score_stands_with_its_interval_and_controls(recipe_of):
    evidence = collect(recipe_of())
    score = {"task": "arc", "metric": "acc", "value": 0.41, "interval_95": [0.34, 0.48], "chance": 0.25, "items": 200,
             "clean_value": 0.4, "clean_interval_95": [0.32, 0.48]}  # fmt: skip
    control = {"task": "arc", "metric": "acc", "control": "random", "value": 0.26, "interval_95": [0.2, 0.32],
               "difference": 0.15, "difference_95": [0.06, 0.24]}  # fmt: skip
    alone = {**score, "task": "f", "chance": None, "clean_value": None, "clean_interval_95": None}
    evidence.results["tasks"] = {"metrics": [score, alone], "controls": [control]}
    _, scores, controls = results(evidence).tables
    assert scores.rows[0][2:] == (
        "0.4100", "0.3400 to 0.4800", "0.2500", "200", "0.4000", "0.3200 to 0.4800",
    )  # fmt: skip
    assert scores.rows[1][6:] == ("-", "-")
    assert controls.rows[0][2:] == ("random", "0.2600", "0.2000 to 0.3200", "0.1500", "0.0600 to 0.2400")
    found = {one["number"]: one for one in _numbers(evidence)}
    assert found["arc: acc"]["interval_95"] == [0.34, 0.48]


def test_the_code_of_the_card_runs(card, bundle, monkeypatch, capsys):
    code = re.search(r"```\n(from transformers.*?)```", card.text, re.DOTALL)
    assert code is not None
    monkeypatch.chdir(bundle.path)
    exec(code.group(1), {})
    assert "Once" in capsys.readouterr().out


def test_the_data_card_is_one_of_the_hub_too(bundle):
    card = DatasetCard.load(bundle.file("data/README.md"))
    assert card.data.license == "mit"
    assert card.data.size_categories == ["n<1K"]
    assert card.data.task_categories == ["text-generation"]
    assert "lengths.png" in card.text
    assert bundle.file("data/lengths.png").read_bytes()[:4] == b"\x89PNG"
