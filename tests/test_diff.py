from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slm.corpus
from slm.core.artifact import Artifact, file_sha256
from slm.core.errors import ProblemsError, UserError
from slm.diff import LINES, changes, diff
from slm.recipe import build_recipe


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., Artifact]:
    """A corpus of a run of its own, of text files that stay between calls."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(30):
        (texts / f"{number:02d}.txt").write_text(f"text {number}")

    def make(run: str, *more: dict[str, Any], **settings: Any) -> Artifact:
        sources = [*more, {"kind": "text", "path": str(texts), "licence": "MIT"}]
        values = {"sources": sources, "validation_fraction": 0.2, **settings}
        made = slm.corpus.run(build_recipe({"run": run, "runs_dir": str(tmp_path), "corpus": values}))
        assert made is not None
        return made

    return make


def test_two_of_the_same_are_the_same(corpus: Callable[..., Artifact]) -> None:
    one, two = corpus("one"), corpus("two")
    assert diff([str(one.path), str(two.path)]).splitlines()[-1] == "the same: key and every file are equal"


def test_settings_inputs_counts_and_files_that_differ_are_listed(
    corpus: Callable[..., Artifact], tmp_path: Path
) -> None:
    one = corpus("one")
    (tmp_path / "texts" / "03.txt").write_text("text 4")
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"text": f"line {n}"}) + "\n" for n in range(9)))
    two = corpus("two", {"kind": "jsonl", "path": str(tmp_path / "more.jsonl"), "licence": "CC0-1.0"}, unit_bytes=2_000)
    lines = diff([str(one.path), str(two.path)]).splitlines()
    assert lines[0].startswith(f"corpus {one.fingerprint[:12]} ")
    assert "  unit_bytes: 64,000,000 -> 2,000 (-63,998,000)" in lines
    assert any(line.startswith("  sources.jsonl: only in the second: {") for line in lines)
    assert not any("sources.text" in line and "path" in line for line in lines)  # it moved, but is the same source
    assert any(line.startswith("  text.03.txt: [") for line in lines)
    assert "  sources.text.documents: 30 -> 29 (-1)" in lines
    assert "  skipped.duplicate: only in the second: 1" in lines
    assert any(line.startswith("  train-00000.parquet: ") and line.endswith(", other content") for line in lines)
    assert file_sha256(one.file("train-00000.parquet")) != file_sha256(two.file("train-00000.parquet"))


def test_a_run_stands_for_its_corpus(corpus: Callable[..., Artifact], tmp_path: Path) -> None:
    one = corpus("one")
    assert diff([str(tmp_path / "one"), str(one.path)]).startswith(f"corpus {one.fingerprint[:12]} {one.path}")


def test_what_cannot_be_compared_is_refused(corpus: Callable[..., Artifact], tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match="usage: slm diff A B"):
        diff(["one"])
    with pytest.raises(UserError, match="there is no artifact in"):
        diff([str(tmp_path / "nothing"), str(corpus("one").path)])


def test_numbers_show_their_difference_and_long_lists_are_cut() -> None:
    assert list(changes({"a": 1_000, "b": 0.5, "c": True}, {"a": 1_500, "b": 0.25, "c": False})) == [
        "a: 1,000 -> 1,500 (+500)", "b: 0.5 -> 0.25 (-0.25)", "c: True -> False",
    ]  # fmt: skip
    from slm.diff import _section

    shown = list(_section("files", [str(number) for number in range(LINES + 5)]))
    assert len(shown) == LINES + 2
    assert shown[-1] == "  ... and 5 more"
