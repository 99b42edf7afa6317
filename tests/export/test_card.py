"""The card of a folder, read as the hub reads it."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard

from slm.export.card import write_card
from tests.export.conftest import SubjectOf

COST = {"bits_per_byte": 1.5, "increase": 0.001, "interval_95": (0.0005, 0.002), "mean_kl": 2e-3, "top1_agreement": 1}


def test_the_hub_finds_licence_library_and_figures(subject_of: SubjectOf, tmp_path: Path) -> None:
    facts = {"engine": "transformers", "size_bytes": 5_000_000, "form": "float32", "cost": COST}
    write_card(tmp_path, subject_of(), facts, {"tokens": 1000}, "Apache-2.0")
    card = ModelCard.load(tmp_path / "README.md")
    said = {
        key: value for key, value in card.data.to_dict().items() if key in ("license", "library_name", "pipeline_tag")
    }
    assert said == {"license": "apache-2.0", "library_name": "transformers", "pipeline_tag": "text-generation"}
    assert "+0.00100 (+0.00050 to +0.00200)" in card.text
    assert "stdlib: the standard library of Python 3.11; licence PSF-2.0" in card.text
    assert "trained on 1,000 tokens" in card.text


def test_what_is_not_known_is_said_so(subject_of: SubjectOf, tmp_path: Path) -> None:
    write_card(tmp_path, subject_of(), {"engine": "x", "size_bytes": 5, "form": "float32"}, {}, "")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license is None
    assert "| held-out text | not measured |" in card.text
