"""Token bytes to text as it comes: no character torn, no stop string shown, nothing lost.

In: the bytes of one token after another, cut anywhere. Out: pieces of text whose concatenation is the
whole decoded at once (invalid bytes as U+FFFD), up to the first stop string. Bytes that may be the start
of a character, and text that may be the start of a stop string, are held back until the next token
decides; at most three bytes and one character less than the longest stop string wait.

Where several stop strings match, the one that is complete first wins, and of those complete at the same
character the longest. Only this rule gives the same text however the tokens are cut.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Utf8Stream:
    """Bytes to text, holding back an unfinished character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, data: bytes) -> str:
        """The text that `data` completes."""
        return self._decoder.decode(data)

    def finish(self) -> str:
        """What is still held back: U+FFFD for an unfinished character, else nothing."""
        return self._decoder.decode(b"", final=True)


class StopStream:
    """Text to text, ending before the first stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The part of all text so far that is certain to be shown and was not returned yet."""
        if self.stopped:
            return ""
        self._held += text
        found = [(start + len(stop), start) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)[1]], ""
            return shown
        cut = len(self._held) - self._undecided()
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        """What is still held back, now that no stop string can follow."""
        shown, self._held = self._held, ""
        return shown

    def _undecided(self) -> int:
        """Length of the longest end of the held text that a stop string begins with."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
