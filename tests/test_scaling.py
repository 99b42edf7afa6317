from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slm import cli
from slm.core.errors import ProblemsError, UserError
from tests.evaluate.planted import document_rows, publish, publish_checkpoint, publish_corpus


def test_a_ladder_of_runs_gives_table_law_check_and_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("slm.evaluate.statistics.power_law.REFITS", 20)
    corpus = publish_corpus(tmp_path / "corpus")
    for number in range(5):
        run, tokens = Path(f"runs/ladder-{number}"), 1_000_000 * 2**number
        more = 2.0 * 2 ** (-0.3 * number)
        rows = [{**row, "nats": row["nats"] + more * row["bytes"] * np.log(2)} for row in document_rows(0.0, 1)]
        publish(run, corpus, rows, checkpoint=publish_checkpoint(run, tokens))
        if number:
            continue
        (run / "train" / "metrics.jsonl").write_text(
            '{"kind": "evaluate", "step": 1, "tokens": 500000, "bits_per_byte": 5.0}\n'
            '{"kind": "train", "step": 1, "tokens": 500000, "loss": 5.0}\n'
        )
    runs = [f"runs/ladder-{number}" for number in range(5)]
    cli.dispatch(["scaling", *runs])
    printed = capsys.readouterr().out
    assert "scaling: bits per byte = 1.5" in printed
    assert "scaling: a = 0.3, 95 % interval" in printed
    assert "Without ladder-4, which took most computation, the law foretells" in printed
    assert "That is inside." in printed
    assert "scaling: runs/scaling.html" in printed
    assert (tmp_path / "runs/scaling.html").read_text().startswith("<!DOCTYPE html>")
    cli.dispatch(["scaling", *runs, "law.html"])
    assert (tmp_path / "law.html").is_file()
    with pytest.raises(UserError, match="a scaling law needs at least 5 runs, found 2; train more sizes"):
        cli.dispatch(["scaling", *runs[:2]])


@pytest.mark.parametrize("arguments", [["one"], ["one", "two", "a.html", "b.html"], ["one", "redo=true"]])
def test_a_line_that_names_no_ladder_is_refused(arguments: list[str]) -> None:
    with pytest.raises(ProblemsError, match="usage: slm scaling RUN RUN"):
        cli.dispatch(["scaling", *arguments])
