"""The console command: every word it knows, and what it says to one it does not."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from slm import __version__, cli
from slm.core.artifact import Spec, create, open_artifact
from slm.core.errors import ProblemsError
from slm.corpus.config import CorpusConfig
from slm.recipe import STAGES

SOURCES = {"books": {"documents": 3, "bytes": 4200, "licence": "CC0-1.0", "origin": "a shelf"}}


def test_every_stage_is_a_word():
    assert set(STAGES) <= set(cli.RUNNABLE)
    for word in cli.RUNNABLE:
        module = f"slm.{word}.__main__" if word in (*STAGES, "sweep", "rationales") else f"slm.{word}"
        assert callable(importlib.import_module(module).main)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_help_lists_every_word(arguments, capsys):
    cli.dispatch(arguments)
    printed = capsys.readouterr().out
    assert all(f"slm {word} " in printed for word in [*cli.RUNNABLE, "explain", "lineage", "consolidate", "recipes"])


def test_version(capsys):
    cli.dispatch(["--version"])
    assert capsys.readouterr().out == f"slm {__version__}\n"


def test_an_unknown_word_lists_the_known():
    with pytest.raises(ProblemsError, match=r"slm trian: no such command; known are pipeline, corpus"):
        cli.dispatch(["trian"])


def test_a_stage_gets_the_rest_of_the_line(monkeypatch):
    module = importlib.import_module("slm.train.__main__")
    monkeypatch.setattr(module, "main", lambda: None)
    monkeypatch.setattr(sys, "argv", ["slm"])
    cli.dispatch(["train", "recipe=smoke", "seed=3"])
    assert sys.argv == ["slm train", "recipe=smoke", "seed=3"]


def test_explain_goes_through_the_console(capsys):
    cli.dispatch(["explain", "recipe=smoke", "train.tokens"])
    assert "train.tokens = 131072" in capsys.readouterr().out


def test_recipes_say_what_they_make(capsys):
    cli.dispatch(["recipes"])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "every stage once, in seconds" in lines["smoke"]
    assert all(len(line.split()) > 4 for line in lines.values())


def test_lineage_ends_at_the_text_and_shows_shared_parents_once(tmp_path, capsys):
    def artifact(kind: str, **parents: str) -> None:
        found = {name: open_artifact(tmp_path / folder) for name, folder in parents.items()}
        with create(tmp_path / kind, Spec(kind, CorpusConfig(), found)) as draft:
            (draft.path / "file").write_text(kind)
            draft.counts["sources"] = SOURCES

    artifact("corpus")
    artifact("tokenizer", corpus="corpus")
    artifact("shards", corpus="corpus", tokenizer="tokenizer")
    cli.dispatch(["lineage", str(tmp_path / "shards/file")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["shards", "corpus", "text", "tokenizer", "corpus"]
    assert lines[2].strip() == "text books: 3 documents, 4.2 kB, CC0-1.0, from a shelf"
    assert lines[4].endswith("(see above)")
    (tmp_path / "corpus").rename(tmp_path / "moved")
    cli.dispatch(["lineage", str(tmp_path / "shards")])
    assert "not there (there is no artifact in" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["lineage"], ["lineage", "a", "b"]])
def test_lineage_without_one_path_shows_how(arguments):
    with pytest.raises(ProblemsError, match=r"usage: slm lineage PATH"):
        cli.dispatch(arguments)


def test_lineage_of_nothing_is_a_sentence(tmp_path: Path):
    with pytest.raises(ProblemsError, match="does not exist; give a file or folder of a run"):
        cli.dispatch(["lineage", str(tmp_path / "missing.gguf")])


def test_main_exits_with_the_status_of_the_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["slm", "nonsense"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert "error: slm nonsense: no such command" in capsys.readouterr().err
