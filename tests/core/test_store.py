"""Artifacts on object storage: complete or not there, verified on the way back, patient with what may pass."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm.core import store as module
from slm.core.artifact import MANIFEST, Artifact, Draft, Spec, make, open_artifact
from slm.core.config import Config
from slm.core.errors import DamagedError, UserError
from slm.core.manifest import manifest_checksum
from slm.core.store import ATTEMPTS, Store, StoreError, may_pass

FOLDERS = itertools.count()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(module, "PART_BYTES", 64 << 10)


@pytest.fixture
def step(tmp_path: Path) -> Callable[..., Artifact]:
    """`step(8)`: an artifact `step-8` with a small file and one of several parts in a folder."""

    def make_step(number: int, content: str = "") -> Artifact:
        def build(draft: Draft) -> None:
            (draft.path / "sub").mkdir()
            (draft.path / "sub" / "large.bin").write_bytes(bytes([number]) * (200 << 10))
            (draft.path / "a.txt").write_text(content or f"step {number}", encoding="utf-8")

        path = tmp_path / "local" / f"step-{number}"
        shutil.rmtree(path, ignore_errors=True)
        return make(path, Spec("train", Config(), seed=number), build)

    return make_step


@pytest.fixture(params=["s3", "file", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('s3').bucket}/runs/one/train"
    return f"file://{tmp_path}/remote/train" if request.param == "file" else f"memory://{next(FOLDERS)}/train"


def test_what_is_fetched_is_what_was_published(address: str, step: Callable[..., Artifact], tmp_path: Path) -> None:
    rows = tmp_path / "metrics.jsonl"
    rows.write_text("{}\n", encoding="utf-8")
    store = Store(address)
    store.check()
    assert store.published() == []
    for number in (1, 2):
        store.upload(step(number).path, [rows])
    assert store.published() == ["step-2", "step-1"]
    again = Store(address + "/")
    fetched = again.download("step-1", tmp_path / "elsewhere" / "step-1")
    assert fetched.fingerprint == step(1).fingerprint
    assert open_artifact(fetched.path, "train", verify="full").file("a.txt").read_text(encoding="utf-8") == "step 1"
    assert [path.name for path in again.download_beside(fetched.path.parent)] == ["metrics.jsonl"]
    assert sorted(path.name for path in fetched.path.parent.iterdir()) == ["metrics.jsonl", "step-1"]
    again.remove("step-2")
    again.set_aside("step-1")
    assert (again.published(), again.incomplete()) == ([], ["step-1"])


def test_the_manifest_is_written_last_and_the_pointer_after_it(s3: Any, step: Callable[..., Artifact]) -> None:
    Store(f"s3://{s3.bucket}/train").upload(step(1).path)
    written = [request.split("train/")[1] for request in s3.requests if request.startswith("PUT")]
    parts = [name for name in written if "partNumber=" in name]
    assert len(parts) == 4
    assert written[-2:] == [f"step-1/{MANIFEST}", "latest"]
    (done,) = [
        number for number, request in enumerate(s3.requests) if request.startswith("POST") and "uploadId" in request
    ]
    assert done < s3.requests.index(f"PUT /{s3.bucket}/train/step-1/{MANIFEST}")
    assert s3.ask("GET", f"/{s3.bucket}/train/latest") == b"step-1\n"


def test_an_upload_broken_off_is_not_there_and_can_be_made_again(s3: Any, step: Callable[..., Artifact]) -> None:
    store, artifact = Store(f"s3://{s3.bucket}/train"), step(1)
    s3.fault = lambda request: 403 if "partNumber=3" in request else 0
    with pytest.raises(StoreError, match=r"cannot be written \(PermissionError: told to\); set credentials") as caught:
        store.upload(artifact.path)
    assert not caught.value.passing
    assert (store.published(), store.incomplete(), store.retries) == ([], ["step-1"], 0)
    s3.fault = lambda _: 0
    store.upload(artifact.path)
    assert (store.published(), store.incomplete()) == (["step-1"], [])


def test_a_server_in_trouble_is_asked_again_and_each_time_is_counted(
    s3: Any, step: Callable[..., Artifact], tmp_path: Path
) -> None:
    store, turn = Store(f"s3://{s3.bucket}/train"), itertools.count()
    s3.fault = lambda _: 503 if next(turn) % 9 < 3 else 0
    store.upload(step(1).path)
    assert store.download("step-1", tmp_path / "back").fingerprint == step(1).fingerprint
    refused = sum(number % 9 < 3 for number in range(len(s3.requests)))
    print(f"\n{len(s3.requests)} requests, {refused} answered 503, {store.retries} attempts made again")
    assert store.retries >= 2
    assert store.published() == ["step-1"]


def test_a_server_that_is_gone_is_one_sentence_after_all_attempts(s3: Any) -> None:
    store = Store(f"s3://{s3.bucket}/train")
    s3.stop()
    with pytest.raises(
        StoreError, match=r"cannot be listed \(EndpointConnectionError: .*\); look at the network"
    ) as caught:
        store.published()
    assert caught.value.passing
    assert store.retries == ATTEMPTS - 1


def test_waiting_for_another_attempt_ends_when_it_is_abandoned(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 60.0)
    monkeypatch.setattr(module, "LONGEST_WAIT_SECONDS", 60.0)
    store, began = Store(f"s3://{s3.bucket}/train"), time.monotonic()
    s3.fault = lambda _: 503
    threading.Timer(0.3, store.abandoned.set).start()
    with pytest.raises(StoreError):
        store.published()
    assert time.monotonic() - began < 50


def test_a_bucket_that_is_not_there_is_refused_at_once(s3: Any) -> None:
    store = Store("s3://no-such-bucket/train")
    with pytest.raises(
        StoreError, match=r"cannot be written \(FileNotFoundError: .*\); make the bucket or container first"
    ):
        store.check()
    assert store.retries == 0
    assert s3.requests == ["PUT /no-such-bucket/train/.writable"]


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        (
            "ftpx://host/x",
            r"ftpx://host/x cannot be opened \(Protocol not known: ftpx\); write it as s3://bucket/folder",
        ),
        ("gs://bucket/x", r"gs://bucket/x needs a driver for gs:// that is not installed; pip install 'slm\[gcs\]'"),
        ("az://box/x", r"az://box/x needs a driver for az:// that is not installed; pip install 'slm\[azure\]'"),
        ("runs/remote", r"'runs/remote' is no address of a folder; write it as s3://bucket/folder"),
        ("file:///", r"'file:///' is no address of a folder"),
    ],
)
def test_an_address_that_cannot_be_opened_is_refused(
    address: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for driver in ("gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, driver, None)  # importing it now fails, installed or not
    with pytest.raises(UserError, match=sentence):
        Store(address)


def test_what_was_damaged_there_is_noticed_and_leaves_nothing_here(
    s3: Any, step: Callable[..., Artifact], tmp_path: Path
) -> None:
    store = Store(f"s3://{s3.bucket}/train")
    for number in (1, 2, 3, 4):
        store.upload(step(number).path)
    s3.ask("PUT", f"/{s3.bucket}/train/step-4/a.txt", b"step !")
    s3.ask("PUT", f"/{s3.bucket}/train/step-3/a.txt", b"step")
    s3.ask("PUT", f"/{s3.bucket}/train/step-2/{MANIFEST}", b"{}")
    for name, problem in {
        "step-4": r"step-4/a.txt in s3://.* is damaged \(sha256\)",
        "step-3": r"damaged \(4 bytes, 6 in its manifest\)",
        "step-2": r"step-2/manifest.json is not readable as a manifest",
    }.items():
        with pytest.raises(DamagedError, match=problem):
            store.download(name, tmp_path / "back" / name)
        store.set_aside(name)
    assert list((tmp_path / "back").iterdir()) == []
    assert store.published() == ["step-1"]


def test_an_edited_manifest_is_noticed(s3: Any, step: Callable[..., Artifact], tmp_path: Path) -> None:
    store, artifact = Store(f"s3://{s3.bucket}/train"), step(1)
    store.upload(artifact.path)
    edited = json.dumps({**artifact.manifest, "seed": 9}).encode()
    s3.ask("PUT", f"/{s3.bucket}/train/step-1/{MANIFEST}", edited)
    with pytest.raises(DamagedError, match=r"step-1/manifest.json was changed after .* \(its checksum differs\)"):
        store.download("step-1", tmp_path / "back")


def test_a_manifest_cannot_name_files_outside_its_folder(step: Callable[..., Artifact], tmp_path: Path) -> None:
    store, artifact = Store(f"file://{tmp_path}/remote"), step(1)
    store.upload(artifact.path)
    files = {"../../x": {"sha256": "", "size_bytes": 1}}
    changed = {
        **artifact.manifest,
        "files": files,
        "checksum": manifest_checksum({**artifact.manifest, "files": files}),
    }
    (tmp_path / "remote" / "step-1" / MANIFEST).write_text(json.dumps(changed))
    with pytest.raises(DamagedError, match="the name of a file must lead to a place inside the artifact"):
        store.download("step-1", tmp_path / "local" / "step-1")


def test_damage_on_the_way_is_mended_by_fetching_again(step: Callable[..., Artifact], tmp_path: Path) -> None:
    store, turn = Store(f"file://{tmp_path}/remote"), itertools.count()
    store.upload(step(1).path)
    honest = store._files.get_file

    def garbled(source: str, target: str) -> None:
        honest(source, target)
        if next(turn) == 0:
            Path(target).write_bytes(b"?")

    store._files.get_file = garbled
    assert store.download("step-1", tmp_path / "back").fingerprint == step(1).fingerprint


def test_one_made_anew_replaces_the_old_one_and_the_same_one_is_left(s3: Any, step: Callable[..., Artifact]) -> None:
    store = Store(f"s3://{s3.bucket}/train")
    store.upload(step(1).path)
    s3.requests.clear()
    store.upload(step(1).path)
    assert not [request for request in s3.requests if request.startswith(("PUT", "POST", "DELETE"))]
    store.upload(step(1, "another").path)
    changes = [request for request in s3.requests if request.startswith(("PUT", "POST", "DELETE"))]
    assert changes[0] == f"DELETE /{s3.bucket}/train/step-1/{MANIFEST}"
    assert s3.ask("GET", f"/{s3.bucket}/train/step-1/a.txt") == b"another"


def test_one_replaced_here_during_its_upload_is_not_published(s3: Any, step: Callable[..., Artifact]) -> None:
    store, artifact = Store(f"s3://{s3.bucket}/train"), step(1)

    def meddle(request: str) -> int:
        if request.startswith("POST") and "uploadId" in request:
            step(1, "step 2")
        return 0

    s3.fault = meddle
    with pytest.raises(StoreError, match="was not published"):
        store.upload(artifact.path)
    assert store.published() == []


def test_pruning_takes_the_manifest_first_and_never_the_last_sound_one(s3: Any, step: Callable[..., Artifact]) -> None:
    store = Store(f"s3://{s3.bucket}/train")
    for number in (1, 2, 3):
        store.upload(step(number).path)
    s3.ask("PUT", f"/{s3.bucket}/train/step-0/a.txt", b"killed")
    s3.ask("DELETE", f"/{s3.bucket}/train/step-3/a.txt")
    assert store.prune(["step-3"]) == [], "the only one to stay is not whole"
    s3.requests.clear()
    assert store.prune(["step-3", "step-2"]) == ["step-1", "step-0"]
    deleted = [request.split("train/")[1] for request in s3.requests if request.startswith("DELETE")]
    assert deleted[0] == f"step-1/{MANIFEST}"
    assert (store.published(), store.incomplete()) == (["step-3", "step-2"], [])


def test_a_disk_that_is_full_there_is_said(step: Callable[..., Artifact], small_disk: Callable[[int], Path]) -> None:
    store = Store(f"file://{small_disk(100)}/train")
    with pytest.raises(StoreError, match=r"cannot be written \(.*No space left.*\); free some space there") as caught:
        store.upload(step(1).path)
    assert not caught.value.passing
    assert store.published() == []


class AnswerError(Exception):
    """What a driver raises for an answer of the server."""

    def __init__(self, status: object, words: str = "") -> None:
        self.status = status
        super().__init__(words)


class EndpointConnectionError(Exception):
    """As botocore's, which is none of Python's own."""


class HTTPClientError(EndpointConnectionError):
    pass


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(errno.EBUSY, "slow down"), True),
        (HTTPClientError(), True),
        (AnswerError(503), True),
        (AnswerError(500), True),
        (AnswerError(429), True),
        (AnswerError(400, "RequestTimeout"), True),
        (AnswerError(404), False),
        (AnswerError(403), False),
        (AnswerError(400), False),
        (PermissionError(), False),
        (FileNotFoundError(), False),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), False),
        (ValueError("status of something else"), False),
    ],
)
def test_what_may_pass_is_told_from_what_will_not(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes
    wrapped = OSError("a driver's own words")
    wrapped.__cause__ = error
    assert may_pass(wrapped) is passes
