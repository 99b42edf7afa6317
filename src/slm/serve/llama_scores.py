"""llama.cpp's logits at every position of a row, as `slm chat` computes them: what judging a GGUF file by text needs.

In: a .gguf file and rows of ids. Out: logits [T, V] of what follows each id. The server has no such answer (it tells
one position a request, as JSON: 0.2 s at 32,768 entries), so llama.cpp's C interface in xllamacpp's library is called
through ctypes, in a process of its own, because llama.cpp ends the program on some damaged files: `python -m
slm.serve.llama_scores FILE THREADS`, ids on standard input, float32 on standard output.

Settings are structures that grow with llama.cpp's versions. Theirs are taken as defaults in more room than they need
and handed back; only `n_ctx`, the first number, is set, and only where the first four are the defaults that the
header gives them. Anything else is another layout and is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from slm.core.errors import DamagedError, UserError
from slm.serve.gguf_file import read_gguf

CHUNK_TOKENS = 512
"""Ids that go through the model together; llama.cpp's own default takes no more at once."""
FIRST_SETTINGS = (512, 2048, 512, 1)
"""llama.h's defaults of n_ctx, n_batch, n_ubatch and n_seq_max."""
OTHER_LAYOUT = 3
"""Exit status where the library's structures are not those known here."""


class LlamaScores:
    """One GGUF file in a process of its own; use it as a context manager."""

    def __init__(self, path: Path, threads: int) -> None:
        read_gguf(path)
        self.path, self._threads = path, threads
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._entries = 0

    def __enter__(self) -> LlamaScores:
        self._log = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "slm.serve.llama_scores", str(self.path.absolute()), str(self._threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)
        try:
            self._entries = int(self._read(np.int32, 1)[0])
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits [T, V] of what follows each of `ids`."""
        assert self._process is not None
        assert self._process.stdin is not None
        row = np.asarray(ids, dtype=np.int32)
        try:
            self._process.stdin.write(np.int32(len(row)).tobytes() + row.tobytes())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error
        return self._read(np.float32, len(row) * self._entries).reshape(len(row), self._entries)

    def _read(self, kind: type[Any], count: int) -> npt.NDArray[Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        size = np.dtype(kind).itemsize * count
        found = self._process.stdout.read(size)
        if len(found) < size:
            raise self._ended()
        return np.frombuffer(bytearray(found), dtype=kind)  # writable, as torch wants it

    def _ended(self) -> UserError:
        assert self._process is not None
        assert self._log is not None
        if self._process.wait() == OTHER_LAYOUT:
            return UserError(
                "this version of xllamacpp lays out its settings differently from the one known here, so GGUF files "
                "cannot be measured; install the version in requirements.lock, or set export.quality.documents=0"
            )
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        said = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "it said nothing")
        return DamagedError(f"llama.cpp ended while reading {self.path} ({said.strip()[:200]}); export it again")


class _Settings(ctypes.Structure):
    """Any structure of settings, which is larger than it."""

    _fields_ = (("words", ctypes.c_int32 * 256),)


class _Batch(ctypes.Structure):
    """llama.h's `llama_batch`."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.c_void_p),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.c_void_p),
        ("n_seq_id", ctypes.c_void_p),
        ("seq_id", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
    )


class Library:
    """A file in llama.cpp in this process."""

    def __init__(self, path: str, threads: int) -> None:
        package = importlib.util.find_spec("xllamacpp.xllamacpp")
        assert package is not None
        assert package.origin is not None
        library = self._library = ctypes.CDLL(package.origin)
        pointer = ctypes.c_void_p
        for name, result, arguments in (
            ("llama_model_default_params", _Settings, []),
            ("llama_context_default_params", _Settings, []),
            ("llama_model_load_from_file", pointer, [ctypes.c_char_p, _Settings]),
            ("llama_init_from_model", pointer, [pointer, _Settings]),
            ("llama_set_n_threads", None, [pointer, ctypes.c_int32, ctypes.c_int32]),
            ("llama_model_get_vocab", pointer, [pointer]),
            ("llama_vocab_n_tokens", ctypes.c_int32, [pointer]),
            ("llama_get_memory", pointer, [pointer]),
            ("llama_memory_clear", None, [pointer, ctypes.c_bool]),
            ("llama_decode", ctypes.c_int32, [pointer, _Batch]),
            ("llama_get_logits", ctypes.POINTER(ctypes.c_float), [pointer]),
        ):
            if not hasattr(library, name):
                raise SystemExit(OTHER_LAYOUT)
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        settings = library.llama_context_default_params()
        if tuple(settings.words[:4]) != FIRST_SETTINGS:
            raise SystemExit(OTHER_LAYOUT)
        settings.words[0] = 0  # the length that the model is meant for
        library.llama_backend_init()
        model = library.llama_model_load_from_file(path.encode(), library.llama_model_default_params())
        self._context = library.llama_init_from_model(model, settings) if model else None
        if not self._context:
            raise SystemExit(1)
        library.llama_set_n_threads(self._context, threads, threads)
        self.entries = int(library.llama_vocab_n_tokens(library.llama_model_get_vocab(model)))

    def logits(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Logits [T, V] of what follows each of `ids`, from an empty cache."""
        library = self._library
        library.llama_memory_clear(library.llama_get_memory(self._context), True)
        found = []
        for first in range(0, len(ids), CHUNK_TOKENS):
            chunk = np.ascontiguousarray(ids[first : first + CHUNK_TOKENS])
            places = np.arange(first, first + len(chunk), dtype=np.int32)
            wanted = np.ones(len(chunk), dtype=np.int8)
            batch = _Batch(len(chunk), chunk.ctypes.data, None, places.ctypes.data, None, None, wanted.ctypes.data)
            status = library.llama_decode(self._context, batch)
            if status:
                raise SystemExit(f"error: llama_decode answered {status}")
            shape = (len(chunk), self.entries)
            found.append(np.ctypeslib.as_array(library.llama_get_logits(self._context), shape).copy())
        return np.concatenate(found)


def main() -> None:
    """Answer rows until standard input closes."""
    library = Library(sys.argv[1], int(sys.argv[2]))
    answer, asked = sys.stdout.buffer, sys.stdin.buffer
    answer.write(np.int32(library.entries).tobytes())
    answer.flush()
    while head := asked.read(4):
        count = int(np.frombuffer(head, dtype=np.int32)[0])
        answer.write(library.logits(np.frombuffer(asked.read(4 * count), dtype=np.int32)).tobytes())
        answer.flush()


if __name__ == "__main__":
    main()
