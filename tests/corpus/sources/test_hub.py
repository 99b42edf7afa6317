from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from slm.core.errors import UserError
from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.sources import hub
from slm.corpus.sources.hub import signature
from tests.corpus.reading import read_all, source_of, units_of


def documents(path: Path | str, **settings: str) -> list[Document]:
    config = SourceConfig.model_validate({"kind": "hub", "path": str(path), "licence": "MIT", **settings})
    return list(read_all(config))


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
        ({"text_columns": ["body"]}, "no column body; name one of text, key, size with text_columns"),
        ({"text_columns": ["size"]}, "size holds int, not text; correct the row, or name another with text_columns"),
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


def test_each_shard_of_the_stream_is_a_unit_with_ids_of_its_own(tmp_path: Path) -> None:
    for number in range(3):
        rows = [{"text": f"{number} {row}"} for row in range(4)]
        (tmp_path / f"train-{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = source_of("hub", tmp_path)
    assert len(units_of(config)) == 3
    found = list(read_all(config))
    assert [document.text for document in found] == [f"{number} {row}" for number in range(3) for row in range(4)]
    assert found[5].id == "hub/train-00001:1"


class Breaking:
    """A stream of ten rows whose connection breaks before the rows that are still in `faults`."""

    num_shards = 1

    def __init__(self, faults: list[int], first: int = 0) -> None:
        self.faults, self.first = faults, first

    def shard(self, num_shards: int, index: int) -> Breaking:
        assert (num_shards, index) == (1, 0)
        return self

    def skip(self, count: int) -> Breaking:
        return Breaking(self.faults, count)

    def __iter__(self):
        for number in range(self.first, 10):
            if number in self.faults:
                self.faults.remove(number)
                raise ConnectionResetError("the other side hung up")
            yield {"text": f"row {number}"}


def test_a_connection_that_breaks_goes_on_at_the_row_and_gives_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "FIRST_WAIT_SECONDS", 0.0)
    stream = Breaking([0, 4, 4, 4, 9])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    assert [d.text for d in read_all(source_of("hub", "a/b"))] == [f"row {number}" for number in range(10)]
    stream.faults = [6] * hub.ATTEMPTS
    with pytest.raises(
        UserError, match="from row 6 of shard 0 on: ConnectionResetError, the other side hung up; check"
    ):
        list(read_all(source_of("hub", "a/b")))


def test_unusable_rows_are_counted(dataset: Path) -> None:
    rejects = Rejects("skip", limit_bytes=2)
    assert [document.text for document in read_all(source_of("hub", dataset), rejects)] == [""]
    assert rejects.counts == {"too long": 1}
    assert list(read_all(source_of("hub", dataset, text_columns=["size"]), rejects)) == []
    assert rejects.counts["not text"] == 2


def test_several_columns_are_put_together_and_empty_ones_left_out(dataset: Path) -> None:
    assert [document.text for document in documents(dataset, text_columns=["key", "text"])] == ["a\n\none", "b"]
