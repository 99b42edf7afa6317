"""Signals ask the run to stop, a second one insists; a deadline asks in time."""

from __future__ import annotations

import os
import signal
import time

import pytest

from slm.core.errors import Stopped, UserError
from slm.train import stop as stop_module
from slm.train.config import TrainConfig
from slm.train.stop import PATIENCE_SECONDS, SAME_REQUEST_SECONDS, StopRequest, stop_request


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_only_sets_the_flag(number, capfd):
    with StopRequest() as stop:
        stop.leave_if_asked()
        assert not stop.signalled
        os.kill(os.getpid(), number)
        assert stop.signalled
        assert not stop.leaving
    assert f"{number.name} received; finishing the step and saving" in capfd.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_next_look_leaves_to_be_started_again(number):
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        with pytest.raises(Stopped, match=number.name) as left:
            stop.leave_if_asked()
    assert left.value.exit_status == 85
    assert stop.leaving


@pytest.mark.parametrize(("second", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Stopped)])
def test_the_second_signal_leaves_at_once_and_saves_nothing(clock, second, kind):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        clock.now += SAME_REQUEST_SECONDS + 0.1
        with pytest.raises(KeyboardInterrupt) as left:
            os.kill(os.getpid(), second)
    assert left.type is kind
    assert not stop.leaving


def test_the_same_request_by_two_ways_is_one(clock):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        clock.now += SAME_REQUEST_SECONDS / 2
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped, match="SIGTERM"):
            stop.leave_if_asked()


def test_handlers_are_put_back():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with StopRequest():
        assert all(now != then for now, then in zip(map(signal.getsignal, numbers), before, strict=True))
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_deadline_leaves_room_for_the_way_to_the_next_look_and_a_save(clock, capsys):
    stop = StopRequest(deadline=1000.0, save_seconds=99.0)
    clock.now = 800.0
    stop.leave_if_asked()
    clock.now = 840.0  # a step of 40 s
    stop.leave_if_asked()
    assert stop.margin_seconds == 40 + 99
    stop.saved(20.0)  # measured at last: the guess no longer counts
    clock.now = 860.0
    stop.leave_if_asked()  # a save is not part of the way between two looks
    assert stop.margin_seconds == 40 + 20
    stop.saved(10.0)
    clock.now = 939.0
    stop.leave_if_asked()  # 61 s are left, 60 are needed: the longest save counts
    clock.now = 975.0
    with pytest.raises(Stopped, match="the time ends"):
        stop.leave_if_asked()
    assert "train: the time ends in 25 s; saving" in capsys.readouterr().out


def test_one_long_pause_is_forgotten(clock):
    stop = StopRequest()
    for seconds in (0.0, 300.0, *[1.0] * 80):
        clock.now += seconds
        stop.leave_if_asked()
    assert stop.margin_seconds == 1.0


def test_a_short_rest_is_finished_and_a_long_one_given_up(clock):
    with StopRequest() as stop:
        stop.leave_if_asked()
        clock.now += 2.0
        assert not stop.rest_is_long(1, 1000)  # nobody asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert not stop.rest_is_long(1, 1 + int(PATIENCE_SECONDS / 2))
        assert stop.rest_is_long(1, 2 + int(PATIENCE_SECONDS / 2))


def test_processes_stop_together():
    """What `agree` answers is what counts, and it is asked at every look."""
    answers = iter([False, True, True])
    asked: list[bool] = []
    with StopRequest(agree=lambda wanted: asked.append(wanted) or next(answers)) as stop:
        stop.leave_if_asked()
        assert stop.rest_is_long(1, 1000)
        with pytest.raises(Stopped, match="another process"):
            stop.leave_if_asked()
    assert asked == [False] * 3


def test_the_sooner_end_counts_and_margins_come_off(clock):
    clock.now = 50_000.0
    both = TrainConfig(deadline_minutes=10, deadline_margin_seconds=5)
    assert stop_request(both, 0, {}).deadline == 50_000 + 600 - 5
    assert stop_request(both, 0, {"SLURM_JOB_END_TIME": "50100"}).deadline == 50_095
    assert stop_request(both, 0, {"SLURM_JOB_END_TIME": "60000"}).deadline == 50_595
    assert stop_request(TrainConfig(), 0, {}).deadline is None
    assert stop_request(TrainConfig(), 1_000_000_000, {}).margin_seconds == 60


def test_an_end_that_is_no_time_is_refused():
    with pytest.raises(UserError, match=r"SLURM_JOB_END_TIME is '2026-11-21T05:00', which must be the seconds since"):
        stop_request(TrainConfig(), 0, {"SLURM_JOB_END_TIME": "2026-11-21T05:00"})


class Clock:
    """A time that stands still."""

    now = 100.0

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stop_module, "time", clock)
    assert stop_module.time is not time
    return clock
