"""`slm card` from a command line, on a real corpus."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from slm import card, corpus
from slm.compose import load_recipe


def test_the_command_writes_the_card_of_the_runs_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["recipe=smoke", f"runs_dir={tmp_path}"]
    made = corpus.run(load_recipe(*words))
    monkeypatch.setattr(sys, "argv", ["slm card", *words])
    card.main()
    assert f"card: wrote {tmp_path}/smoke/card" in capsys.readouterr().out
    text = (tmp_path / "smoke" / "card" / "card.md").read_text(encoding="utf-8")
    documents = sum(made.counts[split]["documents"] for split in ("train", "validation"))
    assert f"| stdlib | {documents} |" in text
    assert "PSF-2.0" in text
