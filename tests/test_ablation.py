from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slm import cli
from slm.core.errors import ProblemsError
from tests.evaluate.planted import document_rows, publish, publish_checkpoint, publish_corpus


def test_each_change_is_printed_beside_the_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, noise = publish_corpus(tmp_path / "corpus"), np.random.default_rng(0)
    for number, (seed, train, shift) in enumerate(
        [(seed, train, shift) for train, shift in (({}, 0.0), ({"clip_norm": 0.5}, -0.1)) for seed in (1, 2, 3)]
    ):
        rows = document_rows(0.0, 1)
        moved = shift + noise.normal(0, 0.002)
        rows = [{**row, "nats": row["nats"] + moved * row["bytes"] * np.log(2)} for row in rows]
        run = tmp_path / f"run-{number}"
        publish(run, corpus, rows, checkpoint=publish_checkpoint(run, 1_000_000, seed, train=train))
    cli.dispatch(["ablation", *(str(tmp_path / f"run-{number}") for number in range(6))])
    printed = " ".join(capsys.readouterr().out.split())
    assert "the base is run-0, run-1, run-2 (seeds 1, 2, 3)" in printed
    assert "train.clip_norm:" in printed
    assert "seed by seed" in printed
    assert "better" in printed


@pytest.mark.parametrize("arguments", [["one"], ["one", "seed=1"]])
def test_a_line_that_names_no_runs_is_refused(arguments: list[str]) -> None:
    with pytest.raises(ProblemsError, match=r"usage: slm ablation recipe=NAME .* or slm ablation RUN RUN"):
        cli.dispatch(["ablation", *arguments])
