from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slm.core.errors import DamagedError, UserError
from slm.corpus.cleaning.quality_model import write_model
from slm.corpus.cleaning.quality_score import SETTINGS, WEIGHTS, features, load_model, sigmoid
from slm.corpus.cleaning.views import TextViews
from slm.corpus.document import Document, Dropped
from tests.corpus.cleaning.running import cleaner, document


def test_features_are_words_and_pairs_in_lower_case_of_length_one() -> None:
    bucket, share = features(TextViews("the cat"), 1 << 18)
    assert len(bucket) == 3
    assert np.isclose((share**2).sum(), 1)
    same, _ = features(TextViews("The CAT"), 1 << 18)
    assert np.array_equal(bucket, same)
    other, _ = features(TextViews("cat the"), 1 << 18)
    assert len(set(bucket) & set(other)) == 2, "the pair is another one"
    assert bucket.max() < 1 << 18
    assert features(TextViews(""), 8)[0].size == 0


def test_the_score_is_noted_and_compared(tmp_path: Path) -> None:
    weights = np.zeros(1 << 10, np.float32)
    weights[features(TextViews("good"), len(weights))[0]] = 4
    write_model(tmp_path / "model", weights, -1.0, {})
    washer = cleaner({"step": "quality_score", "model": str(tmp_path / "model")})
    kept = washer(document("good"))
    assert isinstance(kept, Document)
    assert kept.metadata["quality"] == f"{sigmoid(3):.4f}"
    assert washer(document("bad")) == Dropped("quality_score/low")
    noted = cleaner({"step": "quality_score", "model": str(tmp_path / "model"), "min_score": 0})(document("bad"))
    assert isinstance(noted, Document)
    assert noted.metadata["quality"] == f"{sigmoid(-1):.4f}"


def test_the_logistic_function_takes_any_number() -> None:
    assert (sigmoid(0), sigmoid(1e4), sigmoid(-1e4)) == (0.5, 1, 0)
    assert sigmoid(2) + sigmoid(-2) == pytest.approx(1)


def test_a_missing_or_broken_model_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"quality_score.model \(.*\) holds no model.json; make a model with slm"):
        load_model(tmp_path)
    write_model(tmp_path / "model", np.zeros(8, np.float32), 0, {})
    (tmp_path / "model" / WEIGHTS).write_bytes(b"x")
    with pytest.raises(DamagedError, match="is no whole quality model"):
        load_model(tmp_path / "model")
    (tmp_path / "model" / SETTINGS).write_text("{}")
    with pytest.raises(DamagedError, match="is no whole quality model"):
        load_model(tmp_path / "model")
