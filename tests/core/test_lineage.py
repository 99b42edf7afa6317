"""Lineage: from any file back to the text, and where it breaks off."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from slm.core import artifact as module
from slm.core.artifact import Artifact, Spec, make
from slm.core.errors import UserError
from slm.core.lineage import lineage
from tests.core.family import Shape, family, writer


def test_lineage_goes_back_to_the_text_from_any_file_even_after_the_run_moved(tmp_path: Path) -> None:
    family(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    chain = lineage(tmp_path / "b" / "train" / "step-1" / "sub" / "b.bin")
    told = [(depth, found.kind if isinstance(found, Artifact) else found) for depth, found in chain]
    assert told == [(0, "train"), (1, "shards"), (2, "corpus"), (2, "tokenizer"), (3, "corpus")]


def test_lineage_says_where_it_breaks_off(tmp_path: Path) -> None:
    ours = family(tmp_path)
    shutil.rmtree(tmp_path / "tokenizer")
    make(tmp_path / "corpus", Spec("corpus", Shape(size=4)), writer("other"), redo=True)
    broken = [found for _, found in lineage(ours["train"].path) if isinstance(found, str)]
    assert len(broken) == 2
    assert broken[0].startswith(f"corpus {ours['corpus'].fingerprint[:12]}: {tmp_path / 'corpus'} is now ")
    assert broken[1].startswith(f"tokenizer {ours['tokenizer'].fingerprint[:12]}: not there (there is no artifact in")


def test_lineage_of_a_file_outside_any_artifact_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").touch()
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "f", Path("f")):
        with pytest.raises(
            UserError, match=r"f lies in no artifact \(no manifest.json in it or above it\); give a path"
        ):
            lineage(path)


def test_lineage_hashes_large_files_only_where_asked_and_names_the_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL_FILE_BYTES", 3)
    ours = family(tmp_path)
    file = ours["corpus"].file("sub/b.bin")
    file.write_bytes(bytes(256))
    assert not [found for _, found in lineage(ours["train"].path) if isinstance(found, str)]
    broken = [found for _, found in lineage(ours["train"].path, verify="full") if isinstance(found, str)]
    assert len(broken) == 2  # below the shards and below the tokenizer
    assert all(f"damaged ({file} is damaged: its sha256" in sentence for sentence in broken)


def test_an_ancestor_of_several_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = family(tmp_path)
    opened: list[Path] = []
    honest = module.read_manifest
    monkeypatch.setattr(module, "read_manifest", lambda path: opened.append(path) or honest(path))
    lineage(ours["train"].path)
    assert len(opened) == len(set(opened)) == 4
