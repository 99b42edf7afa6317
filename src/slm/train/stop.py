"""Stopping on request: signals set a flag, the loop looks at it between steps.

The first SIGINT or SIGTERM lets the step end, saves, and leaves; a second one leaves at once, which loses
nothing that was saved, since every checkpoint is published atomically.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

from slm.core.console import say


class StopRequest:
    """A context manager; inside it `requested` tells whether a signal has asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        say(f"train: {signal.Signals(number).name} received; finishing the step and saving (once more to leave now)")
