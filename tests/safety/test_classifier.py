"""The toxicity classifier: planted words are found, figures are those of unseen texts, and real data is told apart."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from slm.core.errors import ProblemsError, UserError
from slm.safety.classifier import load_classifier, read_labelled, train

MODERATION = Path(__file__).parents[3] / "shared" / "data" / "openai-moderation/samples-1680.jsonl.gz"


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """400 texts of random words; the toxic half holds `vile`, and 5 texts have no label."""
    draw, rows = random.Random(3), []
    for number in range(405):
        words = [f"word{draw.randrange(300)}" for _ in range(12)]
        toxic = number % 2 == 0
        if toxic:
            words[draw.randrange(12)] = "vile"
        rows.append(
            {"prompt": " ".join(words), "S": int(toxic) if number >= 5 else None, "H": 0 if number >= 5 else None}
        )
    file = tmp_path / "labelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_planted_word_is_learned_and_the_figures_say_so(labelled, tmp_path, capsys):
    train([str(labelled), str(tmp_path / "model")])
    classifier = load_classifier(tmp_path / "model")
    assert classifier.is_toxic("word1 word2 vile word3")
    assert not classifier.is_toxic("word1 word2 word3 word4")
    figures = classifier.figures
    assert (figures["texts"], figures["toxic"], figures["unlabelled"]) == (400, 200, 5)
    for name in ("precision", "recall"):
        assert figures[name]["value"] > 0.95
        assert figures[name]["low"] < figures[name]["value"] <= figures[name]["high"]
    assert figures["area under the curve"] > 0.97
    assert "5 texts without a label left out" in capsys.readouterr().out


def test_figures_on_labels_that_mean_nothing_are_those_of_guessing(tmp_path):
    """Learned by heart, they would be perfect on the texts that were learned from."""
    draw = random.Random(4)
    rows = [
        {"text": " ".join(f"word{draw.randrange(300)}" for _ in range(12)), "bad": draw.random() < 0.5}
        for _ in range(400)
    ]
    with (tmp_path / "x.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["text", "bad"])
        writer.writeheader()
        writer.writerows(rows)
    train([str(tmp_path / "x.csv"), str(tmp_path / "model"), "text=text", "labels=bad"])
    figures = load_classifier(tmp_path / "model").figures
    assert 0.42 < figures["area under the curve"] < 0.58
    assert 0.35 < figures["precision"]["value"] < 0.65


def test_a_text_is_toxic_if_any_chosen_label_is_set(tmp_path):
    rows = [{"prompt": "a", "S": 0, "V": 1}, {"prompt": "b", "S": 0, "V": 0}, {"prompt": "c", "V": 1}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    everything, _ = read_labelled(tmp_path / "x.jsonl", "prompt", None)
    assert sum(toxic for part in everything for _, _, toxic in part) == 2
    only, unlabelled = read_labelled(tmp_path / "x.jsonl", "prompt", ["S"])
    assert sum(toxic for part in only for _, _, toxic in part) == 0
    assert unlabelled == 1


@pytest.mark.skipif(not MODERATION.is_file(), reason="no ../shared/data beside the checkout")
def test_on_real_prompts_it_is_as_good_as_its_docstring_says(tmp_path):
    train([str(MODERATION), str(tmp_path / "model")])
    figures = load_classifier(tmp_path / "model").figures
    assert (figures["texts"], figures["toxic"]) == (1680, 522)
    assert figures["precision"]["value"] == pytest.approx(0.68, abs=0.02)
    assert figures["recall"]["value"] == pytest.approx(0.62, abs=0.02)
    assert figures["area under the curve"] == pytest.approx(0.85, abs=0.01)


def test_too_few_labelled_texts_and_wrong_places_are_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": "a", "S": 1}) + "\n")
    with pytest.raises(UserError, match=r"one fifth of the texts has 0 toxic ones, but 10 are needed"):
        train([str(tmp_path / "x.jsonl"), str(tmp_path / "model")])
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="exists and is no classifier"):
        train([str(tmp_path / "x.jsonl"), str(tmp_path / "folder")])
    with pytest.raises(UserError, match=r"safety.toxicity \(.*\) holds no model.json; make a classifier with"):
        load_classifier(tmp_path / "folder")
    with pytest.raises(ProblemsError, match="usage: slm safety classifier LABELLED FOLDER"):
        train(["x", "y", "threshold=2"])
