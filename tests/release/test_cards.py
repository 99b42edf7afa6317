"""The cards of a bundle, as the hub's own library reads them."""

from __future__ import annotations

import json
import re

import pytest
from huggingface_hub import DatasetCard, ModelCard

from slm.core.artifact import Artifact


@pytest.fixture(scope="module")
def card(bundle: Artifact) -> ModelCard:
    return ModelCard.load(bundle.file("README.md"))


def test_the_hub_reads_licence_library_and_results(card, bundle):
    results = json.loads(bundle.file("evaluation/results.json").read_text())
    assert card.data.license == "apache-2.0"
    assert card.data.to_dict()["library_name"] == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.tags == ["gguf"]
    assert card.data.model_name == "tiny"
    (found,) = card.data.eval_results
    assert (found.metric_type, found.metric_value) == ("bits_per_byte", results["validation"]["bits_per_byte"])
    assert found.dataset_name == "held-out text of the corpus"


def test_the_text_names_files_figures_licences_and_ways_to_check(card):
    text = re.sub(r"\\", "", card.text)
    for words in (
        "hf", "gguf_f32", "bits per byte", "95 % interval", "answers with personal data", "at most 0.9", "MIT",
        "sha256sum -c SHA256SUMS", "slm verify .", "reproduce/README.md", "data/README.md", "v1.0", "golden prompts",
        "was not trained to follow instructions", "Personal data was not taken out",
    ):  # fmt: skip
        assert words in text, words


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
