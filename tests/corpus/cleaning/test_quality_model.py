from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slm import cli
from slm.core.errors import ProblemsError, UserError
from slm.corpus.cleaning.quality_model import Example, fit, is_held_out, measure
from slm.corpus.cleaning.quality_score import SETTINGS, WEIGHTS
from slm.corpus.document import Document, Dropped
from tests.corpus.cleaning.documents import Draw, prose
from tests.corpus.cleaning.running import cleaner, document


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


@pytest.fixture
def sets(tmp_path: Path) -> tuple[str, str]:
    """Two sets of a hundred texts that share most of their words."""
    good = [f"{prose(Draw(number), 40)} we therefore explain the reason" for number in range(100)]
    bad = [f"{prose(Draw(900 + number), 40)} buy cheap tickets online now" for number in range(100)]
    return write(tmp_path / "good.jsonl", good), write(tmp_path / "bad.jsonl", bad)


def test_a_model_tells_texts_apart_that_it_has_not_seen(sets: tuple[str, str], tmp_path: Path) -> None:
    cli.dispatch(["corpus", "score", *sets, str(tmp_path / "model")])
    figures = json.loads((tmp_path / "model" / SETTINGS).read_text())["figures"]["held_out"]
    assert figures["area under the curve"] > 0.95
    washer = cleaner({"step": "quality_score", "model": str(tmp_path / "model")})
    kept = washer(document(f"{prose(Draw(5000), 40)} we therefore explain it"))
    assert isinstance(kept, Document)
    assert float(kept.metadata["quality"]) > 0.5
    assert washer(document(f"{prose(Draw(5001), 40)} buy cheap tickets now")) == Dropped("quality_score/low")


def test_the_same_sets_make_the_same_bytes(sets: tuple[str, str], tmp_path: Path) -> None:
    for name in ("one", "two"):
        cli.dispatch(["corpus", "score", *sets, str(tmp_path / name)])
    for file in (WEIGHTS, SETTINGS):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_smaller_set_weighs_as_much_as_a_larger() -> None:
    shares = np.ones(1, np.float32)
    examples: list[Example] = [(np.array([1]), shares, True)] * 2 + [(np.array([2]), shares, False)] * 200
    weights, bias = fit(examples)
    assert weights[1] + bias > 0.5
    assert weights[2] + bias < -0.5


def test_the_area_under_the_curve_counts_pairs_in_order() -> None:
    weights = np.array([0, 1, 2, 3], np.float32)
    share = np.ones(1, np.float32)
    examples: list[Example] = [(np.array([place]), share, place in (1, 3)) for place in range(4)]
    assert measure(weights, -1.5, examples)["area under the curve"] == 0.75
    assert measure(weights, -1.5, examples)["told right at 0.5"] == 0.5


def test_about_a_tenth_is_held_out_and_copies_together() -> None:
    held_out = [is_held_out(f"text {number}") for number in range(2_000)]
    assert 150 < sum(held_out) < 250
    assert held_out == [is_held_out(f"text {number}") for number in range(2_000)]


def test_what_cannot_be_learned_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match="usage: slm corpus score GOOD BAD FOLDER"):
        cli.dispatch(["corpus", "score", "a"])
    one = write(tmp_path / "one.jsonl", ["one text"])
    with pytest.raises(UserError, match=r"leave no documents of one set .*; give at least some dozens of each"):
        cli.dispatch(["corpus", "score", one, one, str(tmp_path / "model")])


def test_a_folder_that_is_no_model_is_left_alone(sets: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis exists and is no quality model; name another folder"):
        cli.dispatch(["corpus", "score", *sets, str(tmp_path / "thesis")])
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
