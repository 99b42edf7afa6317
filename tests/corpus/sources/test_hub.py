from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from slm.core.errors import UserError
from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.sources.hub import read, signature


def documents(path: Path | str, **settings: str) -> list[Document]:
    config = SourceConfig.model_validate({"kind": "hub", "path": str(path), "licence": "MIT", **settings})
    return list(read(config, Rejects()))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A folder that `datasets` opens as it opens a dataset of the hub."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"text": "one", "key": "a", "size": 3}, {"text": None, "key": "b", "size": 0}]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_rows_are_streamed_and_numbered(dataset: Path) -> None:
    found = documents(dataset)
    assert [(document.id, document.text) for document in found] == [("hub/train:0", "one"), ("hub/train:1", "")]
    assert [document.id for document in documents(dataset, id_column="key")] == ["hub/a", "hub/b"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"text_column": "body"}, "has no column body; name one of text, key, size with text_column"),
        ({"text_column": "size"}, "column size holds int, not text; name another with text_column"),
        ({"split": "test"}, "cannot be read from the hub dataset .*split test.*check names and network"),
    ],
)
def test_what_a_dataset_does_not_have_is_refused(dataset: Path, settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        documents(dataset, **settings)


def test_no_network_is_one_sentence_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"hub dataset HuggingFaceFW/fineweb-edu \(subset x, split train\).*on disk"):
        documents("HuggingFaceFW/fineweb-edu", subset="x")


def test_the_signature_names_the_commit_or_admits_there_is_none() -> None:
    config = SourceConfig(kind="hub", path="a/b", licence="MIT", subset="s")
    assert signature(config) == {"path": "a/b", "subset": "s", "split": "train", "revision": "newest"}
