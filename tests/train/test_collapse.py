"""The warning that chosen answers sink with the rejected ones: once a run, measured from where the run began."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slm.train.collapse import MOST_NATS, CollapseWatch, nats_of_chosen
from slm.train.metrics import METRICS


def figures(nats: float) -> dict[str, float]:
    return {"chosen_log_prob": -20 * nats, "chosen_tokens": 20.0}


def test_a_person_is_told_once_when_chosen_answers_have_become_unlikely(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = CollapseWatch(tmp_path)
    for step, nats in enumerate((3.0, 2.5, 3.0 + 0.99 * MOST_NATS)):
        watch.look(step, figures(nats))
    assert not capsys.readouterr().out
    watch.look(7, figures(3.0 + 1.01 * MOST_NATS))
    said = " ".join(capsys.readouterr().out.split())
    assert "at step 7 the chosen answers take 4.01 nats a token, 3.00 at the beginning" in said
    watch.look(8, figures(9.0))
    assert not capsys.readouterr().out


def test_a_run_that_goes_on_knows_where_it_began(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"kind": "evaluate"}, {"kind": "train", "step": 1, **figures(2.0)}, {"kind": "train", **figures(2.9)}]
    (tmp_path / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    CollapseWatch(tmp_path).look(9, figures(3.1))
    assert "2.00 at the beginning" in " ".join(capsys.readouterr().out.split())


def test_other_objectives_have_no_answers() -> None:
    assert nats_of_chosen({"loss": 3.0}) is None
    assert nats_of_chosen({"chosen_tokens": 0.0, "chosen_log_prob": 0.0}) is None
