"""What a person sees, on a terminal (a real one, by a pty) and in a log."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.core import console
from slm.core.console import Progress, duration, quantity, say, size, table, track

Capture = pytest.CaptureFixture[str]


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(console, "time", fake)
    return fake


def test_in_a_log_progress_is_a_line_now_and_then(clock: Clock, capsys: Capture) -> None:
    with Progress("train", 1000, "steps") as progress:
        for _ in range(10):
            clock.now += 1.0
            progress.advance(50, note="loss 2.5")
        clock.now += 10
        progress.advance(500)
    assert capsys.readouterr().out.splitlines() == [
        "train: 250/1,000 steps, 25 %, 50 steps/s, 15 s left; loss 2.5",
        "train: 500/1,000 steps, 50 %, 50 steps/s, 10 s left; loss 2.5",
        "train: 1,000/1,000 steps, 100 %, 50 steps/s, took 20 s; loss 2.5",
    ]


def test_the_end_is_told_once_where_anything_was(clock: Clock, capsys: Capture) -> None:
    with Progress("train", 100, "steps") as progress:
        clock.now += 6
        progress.advance(60)
        clock.now += 4
        progress.advance(40)
    assert capsys.readouterr().out.splitlines() == [
        "train: 60/100 steps, 60 %, 10 steps/s, 4 s left",
        "train: 100/100 steps, 100 %, 10 steps/s, took 10 s",
    ]


def test_work_that_is_done_at_once_prints_nothing(clock: Clock, capsys: Capture) -> None:
    assert list(track(iter("abc"), "letters", 3, "letters")) == ["a", "b", "c"]
    clock.now += 1
    assert capsys.readouterr() == ("", "")


def test_progress_without_a_known_end_tells_rate_and_time(clock: Clock, capsys: Capture) -> None:
    with Progress("corpus", None, "documents") as progress:
        clock.now += 65
        progress.advance(130)
    assert capsys.readouterr().out.splitlines()[0] == "corpus: 130 documents, 2 documents/s, 1 min 05 s"


def test_resumed_progress_counts_only_what_it_did_itself(clock: Clock, capsys: Capture) -> None:
    with Progress("train", 100, "steps", start=80) as progress:
        clock.now += 10
        progress.advance(10)
    assert capsys.readouterr().out.splitlines()[0] == "train: 90/100 steps, 90 %, 1 steps/s, 10 s left"


TERMINAL = """
import time
from slm.core.console import Progress, table
with Progress("train", 40, "steps") as progress:
    for step in range(40):
        time.sleep(0.01)
        progress.advance(note=f"loss {step}")
table("Sizes", ["file", "bytes"], [["a", 1234567], ["b", 5]])
"""


def on_a_terminal(program: str) -> tuple[str, str]:
    """Standard output and error of a program whose both ends are terminals of 100 columns."""
    texts = []
    out_ours, out_theirs = pty.openpty()
    error_ours, error_theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=out_theirs, stderr=error_theirs, env=environment, close_fds=True
    )
    for ours, theirs in ((error_ours, error_theirs), (out_ours, out_theirs)):
        os.close(theirs)
        read = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            read += part
        os.close(ours)
        texts.append(read.decode())
    assert child.wait() == 0, texts
    return texts[1], texts[0]


def test_on_a_terminal_progress_is_a_bar_on_standard_error_and_tables_fit() -> None:
    out, error = on_a_terminal(TERMINAL)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", error)
    assert "train" in plain
    assert "━" in plain
    assert "40/40 steps" in plain
    assert "loss 39" in plain
    assert "train" not in out
    assert "1,234,567" in out


def test_a_table_aligns_numbers_to_the_right_and_words_to_the_left(capsys: Capture) -> None:
    table("Sizes", ["name", "bytes", "share"], [["a", 1234567, "5 %"], ["long name", 8, "-"], ["c", None, 0.123456]])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == "Sizes"
    name, total, share = ([line[start:end] for line in lines[3:]] for start, end in ((0, 12), (12, 23), (23, 40)))
    assert [cell.strip() for cell in name] == ["a", "long name", "c"]
    assert [len(cell.rstrip()) for cell in name] == [3, 11, 3], lines
    assert [cell.strip() for cell in total] == ["1,234,567", "8", "None"]
    assert [cell.strip() for cell in share] == ["5 %", "-", "0.1235"]


def test_markup_in_a_value_is_printed_as_it_stands(capsys: Capture) -> None:
    table("[red]t", ["c"], [["[bold]x[/bold]"]])
    assert "[bold]x[/bold]" in capsys.readouterr().out


def test_a_message_is_out_at_once(capsys: Capture) -> None:
    say("a: b")
    assert capsys.readouterr().out == "a: b\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"), (0.123456, "0.1235"), (12345.6, "12,346"), (-12345.6, "-12,346"), (True, "True"),
        (None, "None"), ("x", "x"), (3.0, "3"), (float("nan"), "nan"),
    ],
)  # fmt: skip
def test_numbers_are_printed_as_people_read_them(value: object, text: str) -> None:
    assert quantity(value) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (8_800_000, "8.8 MB"), (2.5e9, "2.5 GB"), (7.25e15, "7250.0 TB")],
)
def test_bytes_are_printed_in_decimal_units(num_bytes: float, text: str) -> None:
    assert size(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_are_printed_in_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.integers(0, 10**7))
def test_a_duration_loses_less_than_a_minute(seconds: int) -> None:
    words = duration(seconds).split()
    units = {"s": 1, "min": 60, "h": 3600}
    told = sum(int(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert 0 <= seconds - told < 60
