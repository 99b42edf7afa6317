"""What an evaluation has found out so far, so that one that dies halfway goes on from there.

In: answers by key, as they come. Out: the same answers after a restart. A file of JSON lines beside the artifact, named
by what determines the answers (checkpoint, tokenizer, precision); keys are hashes of what was asked. So an evaluation
with one more task asks only what is new, and after a kill at most the batch in work is asked again. A line that a
power cut tore is dropped. The file is deleted when the artifact is there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from slm.core.artifact import fsync_directory, make_folder


class Journal:
    """Answers by key, each kept on disk as soon as `put` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path.parent)
        self._answers: dict[str, Any] = {}
        whole = 0
        if path.is_file():
            for line in path.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                try:
                    key, answer = json.loads(line)
                except ValueError:
                    break
                self._answers[key] = answer
                whole += len(line)
        self._stream = path.open("ab")
        self._stream.truncate(whole)
        self.resumed = len(self._answers)
        fsync_directory(path.parent)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def get(self, key: str) -> Any:
        """The answer, or None where there is none yet."""
        return self._answers.get(key)

    def put(self, answers: Iterable[tuple[str, Any]]) -> None:
        """Keep some answers, flushed to disk together."""
        for key, answer in answers:
            self._answers[key] = answer
            self._stream.write(json.dumps([key, answer]).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def delete(self) -> None:
        """Remove the file, whose answers are now elsewhere."""
        self._stream.close()
        self.path.unlink(missing_ok=True)


def key_of(*parts: Any) -> str:
    """A name for a question."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
