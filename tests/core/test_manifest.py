"""A manifest is taken only whole and of the shape that others reach into."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm.core.artifact import MANIFEST, Artifact, open_artifact
from slm.core.errors import DamagedError, UserError
from slm.core.lineage import lineage
from slm.core.manifest import manifest_checksum, manifest_fingerprint, parse_manifest, read_manifest
from tests.core.family import family


@pytest.fixture
def train(tmp_path: Path) -> Artifact:
    return family(tmp_path)["train"]


def rewrite(artifact: Artifact, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change a manifest as somebody would who knows how its checksum is made."""
    manifest = json.loads((artifact.path / MANIFEST).read_text(encoding="utf-8"))
    change(manifest)
    manifest["checksum"] = manifest_checksum(manifest)
    (artifact.path / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return artifact.path / MANIFEST


def test_a_whole_manifest_is_what_was_written(train: Artifact) -> None:
    found = read_manifest(train.path / MANIFEST)
    assert found == train.manifest
    assert manifest_fingerprint(found) == train.fingerprint


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda found: found.pop("counts"), r"counts: Field required"),
        (lambda found: found["files"].update({"a.txt": 3}), r"files\.a\.txt: Input should be"),
        (lambda found: found["files"]["a.txt"].update(size_bytes="3"), r"files\.a\.txt\.size_bytes: Input should be"),
        (lambda found: found["files"]["a.txt"].update(size_bytes=-1), r"files\.a\.txt\.size_bytes: .*greater"),
        (lambda found: found["files"].update({"../x": found["files"]["a.txt"]}), r"lead to a place inside"),
        (lambda found: found["files"].update({"/etc/passwd": found["files"]["a.txt"]}), r"lead to a place inside"),
        (lambda found: found["files"].update({"x" * 300: found["files"]["a.txt"]}), r"no file system has such a path"),
        (lambda found: found["parents"]["shards"].update(path="a\0b"), r"parents\.shards\.path: .*no file system"),
        (lambda found: found["parents"]["shards"].pop("fingerprint"), r"parents\.shards\.fingerprint: Field required"),
        (lambda found: found["ingredients"].update(parents=[]), r"ingredients\.parents: Input should be"),
    ],
)
def test_a_manifest_of_another_shape_is_refused_by_its_first_wrong_key(
    train: Artifact, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    rewrite(train, change)
    with pytest.raises(DamagedError, match=rf"manifest\.json is not readable as a manifest \(.*{problem}.*\); make"):
        open_artifact(train.path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[" * 100_000, "recursion"),
        (b'{"a": "\\ud800"}', "Field required"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b"\xff\xfe\xff", "can't decode"),
        (b"null", "the whole: Input should be"),
    ],
)
def test_text_that_is_no_manifest_is_refused_wherever_it_lies(content: bytes, problem: str) -> None:
    with pytest.raises(DamagedError, match=rf"s3://there is not readable as a manifest \(.*{problem}.*\); make"):
        parse_manifest(content, "s3://there")


def test_a_later_format_is_told_from_damage_whatever_its_shape() -> None:
    with pytest.raises(UserError, match="has format version 2, this slm reads 1") as caught:
        parse_manifest(b'{"format_version": 2}', "x")
    assert not isinstance(caught.value, DamagedError)


def test_a_lineage_that_leads_back_to_itself_ends(train: Artifact) -> None:
    here = {"fingerprint": train.fingerprint, "kind": "train", "path": ".", "settings": {}}
    rewrite(train, lambda found: found["parents"].update(shards=here))
    assert [found for _, found in lineage(train.path) if isinstance(found, str)] == [
        f"shards {train.fingerprint[:12]}: damaged ({train.path} names itself as its ancestor)"
    ]
