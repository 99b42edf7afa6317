"""Figures reach every sink, survive kills, and never repeat after a resume."""

from __future__ import annotations

import json
import struct
import sys
import time
from pathlib import Path

import pytest

from slm.core.errors import UserError
from slm.recipe import Recipe, build_recipe
from slm.train.metrics import Metrics, read_metrics


def recipe(**train: object) -> Recipe:
    return build_recipe({"run": "figures", "train": train})


def write_rows(folder: Path, first: int, last: int, resumed: int = 0, **train: object) -> None:
    with Metrics(recipe(**train), folder, resumed) as metrics:
        for step in range(first, last + 1):
            metrics.write("train", step, step * 100, loss=1.0 / step)


def test_rows_come_back_as_they_were_written(tmp_path):
    with Metrics(recipe(), tmp_path, 0) as metrics:
        metrics.write("train", 1, 100, loss=2.5, lr=0.1)
        metrics.write("sample", 1, 100, prompt="a", text="b\n\u00e4")
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"kind": "train", "step": 1, "tokens": 100, "loss": 2.5, "lr": 0.1},
        {"kind": "sample", "step": 1, "tokens": 100, "prompt": "a", "text": "b\n\u00e4"},
    ]


def test_a_resumed_file_reads_as_if_never_stopped(tmp_path):
    for name in ("unbroken", "broken"):
        (tmp_path / name).mkdir()
    write_rows(tmp_path / "unbroken", 1, 9)
    write_rows(tmp_path / "broken", 1, 6)
    write_rows(tmp_path / "broken", 5, 9, resumed=4)
    assert (tmp_path / "broken/metrics.jsonl").read_bytes() == (tmp_path / "unbroken/metrics.jsonl").read_bytes()


def test_a_last_line_cut_by_a_kill_is_dropped(tmp_path):
    write_rows(tmp_path, 1, 3)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2 is not JSON"):
        read_metrics(path)


def test_no_file_is_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_an_offline_wandb_run_holds_every_figure(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_rows(tmp_path, 1, 4, wandb="online")
    assert "no WANDB_API_KEY, so Weights & Biases runs offline" in capsys.readouterr().out
    (file,) = tmp_path.glob("wandb/offline-run-*/run-figures.wandb")
    deadline = time.monotonic() + 20
    while len(history := wandb_history(file)) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)  # wandb's own process closes the file a moment after finish() returns
    assert [(row["_step"], row["train/loss"], row["tokens"]) for row in history] == [
        (step, 1.0 / step, step * 100) for step in range(1, 5)
    ]


def test_tensorboard_files_hold_every_figure(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write_rows(tmp_path, 1, 4, tensorboard=True)
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (step, pytest.approx(1.0 / step)) for step in range(1, 5)
    ]


@pytest.mark.parametrize(("option", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_library_names_the_extra(tmp_path, monkeypatch, option, module):
    monkeypatch.setitem(sys.modules, module, None)
    value = "offline" if option == "wandb" else True
    with pytest.raises(UserError, match=rf"pip install 'slm\[{option}\]'"):
        Metrics(recipe(**{option: value}), tmp_path, 0)


def wandb_history(file: Path) -> list[dict[str, object]]:
    """History rows of a .wandb file: a LevelDB log (32 KiB blocks after a 7-byte header) of protobuf records."""
    from wandb.proto import wandb_internal_pb2

    data, rows, record, position = file.read_bytes(), [], b"", 7
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _crc, length, kind = struct.unpack("<IHB", data[position : position + 7])
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            message = wandb_internal_pb2.Record()
            message.ParseFromString(record)
            record = b""
            if message.HasField("history"):
                items = message.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows
