"""Stopping on request or in time: signals and a deadline set a flag; the loop looks at it where it may leave.

SIGINT, SIGTERM and SIGUSR1 do nothing but set the flag. The loop looks before each step, between the batches
of an evaluation, and between micro-batches: what is left of a step is finished if it takes less than
`PATIENCE_SECONDS`, else the step is given up before the weights change and the cursor is put back, so a stop
at any moment leaves a state of the unbroken run. Then it saves and leaves with status 85, Ctrl-C (SIGINT) too: a
scheduler may start the same command again. A second signal leaves at once, Ctrl-C then with 130; every checkpoint is
published atomically, so nothing that was saved is lost.

The deadline is `SLURM_JOB_END_TIME` or `train.deadline_minutes` from now, whichever is sooner, less what it takes
to reach the next look and to save, both as measured in this run, and `train.deadline_margin_seconds`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import NoReturn

from slm.core.console import say, speaking
from slm.core.errors import Stopped, UserError
from slm.train.config import TrainConfig

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
PATIENCE_SECONDS = 10.0
"""A step that needs longer to its end is given up; a third of what SLURM and containers grant before SIGKILL."""
SAME_REQUEST_SECONDS = 1.0
"""Schedulers, launchers and terminals signal a process and its parent, which passes it on: that is one request."""
FORGETTING = 0.9
"""What a long pause still counts at the next look, so that one compilation does not shorten every job of the run."""
SLOW_DISK_BYTES_PER_SECOND = 200e6
"""Guess for a save until one has been measured."""


class StopRequest:
    """A context manager in which signals only set a flag; `leave_if_asked` raises once it is set.

    `agree` makes one answer of what several processes want (true if any does); every process must then look
    the same number of times.
    """

    def __init__(
        self, deadline: float | None = None, save_seconds: float = 0.0, agree: Callable[[bool], bool] | None = None
    ) -> None:
        self.deadline, self.agree = deadline, agree
        self._save_seconds, self._saved = save_seconds, False
        self._signal: signal.Signals | None = None
        self._received = 0.0
        self._looked: float | None = None
        self._pause_seconds = 0.0
        self.leaving = False
        """Whether `leave` has raised: the state is one of the unbroken run and worth saving."""
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def signalled(self) -> bool:
        """Whether a signal has asked this process to stop."""
        return self._signal is not None

    def leave_if_signalled(self) -> None:
        """Raise if a signal came in, however much time there is."""
        if self._agreed(self.signalled):
            self.leave()

    @property
    def margin_seconds(self) -> float:
        """How long before the deadline to stop: the longest way to the next look, and a save."""
        return self._pause_seconds + self._save_seconds

    def leave_if_asked(self) -> None:
        """Raise if a signal came in, or if the deadline would pass before the next chance to leave."""
        now = time.monotonic()
        if self._looked is not None:
            self._pause_seconds = max(FORGETTING * self._pause_seconds, now - self._looked)
        self._looked = now
        late = self.deadline is not None and time.time() + self.margin_seconds >= self.deadline
        if not self._agreed(self.signalled or late):
            return
        if late and not self.signalled:
            say(f"train: the time ends in {(self.deadline or 0) - time.time():.0f} s; saving")
        self.leave()

    def rest_is_long(self, done: int, total: int) -> bool:
        """Whether a signal came in and the micro-batches left of this step would keep it waiting."""
        long = False
        if self._signal is not None and self._looked is not None:
            long = (time.monotonic() - self._looked) / max(done, 1) * (total - done) > PATIENCE_SECONDS
        return self._agreed(long)

    def saved(self, seconds: float) -> None:
        """Note how long a save took."""
        self._save_seconds = max(self._save_seconds, seconds) if self._saved else seconds
        self._saved = True
        self._looked = None  # a save is no part of the way to the next look

    def leave(self) -> NoReturn:
        """Raise `Stopped`; the state may be saved."""
        self.leaving = True
        raise Stopped(self._signal.name if self._signal else "the time ends, or another process was told to stop")

    def _agreed(self, wanted: bool) -> bool:
        return self.agree(wanted) if self.agree else wanted

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._received = signal.Signals(number), now
            line = f"train: {self._signal.name} received; finishing the step and saving (once more to leave now)\n"
            with contextlib.suppress(OSError):  # a terminal that has gone
                if speaking():
                    os.write(1, line.encode())  # print() must not be entered again from within itself, as a handler may
        elif now - self._received > SAME_REQUEST_SECONDS:
            raise KeyboardInterrupt if number == signal.SIGINT else Stopped(f"{signal.Signals(number).name}, twice")


def stop_request(
    config: TrainConfig,
    num_parameters: int,
    environment: Mapping[str, str] = os.environ,
    agree: Callable[[bool], bool] | None = None,
) -> StopRequest:
    """The stop request of a run that begins now: deadline from recipe and scheduler, a guess for the first save."""
    ends = []
    if config.deadline_minutes:
        ends.append(time.time() + 60 * config.deadline_minutes)
    if scheduled := environment.get("SLURM_JOB_END_TIME"):
        if not scheduled.isdigit():
            raise UserError(
                f"SLURM_JOB_END_TIME is {scheduled!r}, which must be the seconds since 1970 at which the job ends; "
                "unset it, or take it from scontrol show job"
            )
        ends.append(float(scheduled))
    deadline = min(ends) - config.deadline_margin_seconds if ends else None
    bytes_saved = 12 * num_parameters  # fp32 weights and two moments
    return StopRequest(deadline, bytes_saved / SLOW_DISK_BYTES_PER_SECOND, agree)
