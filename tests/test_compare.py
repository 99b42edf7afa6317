from __future__ import annotations

from pathlib import Path

import pytest

from slm import cli
from slm.core.errors import ProblemsError, UserError
from tests.evaluate.planted import document_rows, item_rows, publish, publish_corpus
from tests.shipped import flavour, publish_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    corpus = publish_corpus(tmp_path / "corpus")
    publish(Path("runs/one"), corpus, document_rows(0.0, 1), item_rows(0.5, 1))
    publish(Path("runs/two"), corpus, document_rows(0.05, 2))
    return tmp_path


def test_what_could_be_found_is_printed_before_what_was(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.dispatch(["compare", "runs/one", "runs/two/evaluate"])
    printed = capsys.readouterr().out
    assert printed.index("What could be found") < printed.index("What was found")
    assert "A is better" in printed
    assert "compare: not compared: quiz: acc (200 items, only in A)" in printed
    assert "compare: runs/two/compared-with-one.html" in printed
    assert (runs / "runs/two/compared-with-one.html").read_text().startswith("<!DOCTYPE html>")
    cli.dispatch(["compare", "runs/one", "runs/two", "here.html"])
    assert (runs / "here.html").is_file()


@pytest.mark.usefixtures("runs")
def test_what_cannot_be_compared_is_refused_in_one_sentence() -> None:
    for arguments in ([], ["runs/one", "runs/two", "more"], ["runs/one", "redo=true"]):
        with pytest.raises(ProblemsError, match="usage: slm compare A B"):
            cli.dispatch(["compare", *arguments])
    with pytest.raises(UserError, match=r"^runs/none holds no evaluation"):
        cli.dispatch(["compare", "runs/one", "runs/none"])
    with pytest.raises(UserError, match=r"are the same evaluation; give two that differ$"):
        cli.dispatch(["compare", "runs/one", "runs/one/evaluate"])


def test_the_flavours_of_a_run_are_one_table_and_a_page(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish_run(Path("runs/ship"), {"gguf_q8_0": flavour(16_000_000, 0.001, 250)})
    cli.dispatch(["compare", "runs/ship"])
    printed = capsys.readouterr().out
    assert "250 (× 2.50)" in printed
    assert "compare: runs/ship/flavours.html" in printed
    assert (runs / "runs/ship/flavours.html").read_text().startswith("<!DOCTYPE html>")
    publish_run(Path("runs/other"), {"gguf_q8_0": flavour(16_000_000, 0.002, 240)})
    cli.dispatch(["compare", "runs/ship/export", "runs/other/export", "both.html"])
    assert "other:" in capsys.readouterr().out
    assert "ship: gguf_q8_0" in Path("both.html").read_text()
