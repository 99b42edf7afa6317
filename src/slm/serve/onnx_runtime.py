"""A decoder in ONNX Runtime: ids and the cache so far in, logits and the longer cache out.

In: a `model.onnx` with the inputs that `slm.export.onnx_graph` writes, or that optimum writes for text generation with
a past. It is checked before anything runs; what it lacks is named. Out: logits as numpy arrays; the cache stays in
ONNX Runtime's own tensors and is never copied to Python.

What it does not do: other devices than the CPU, caches in another type than float32, padded batches (the graph takes
them, one conversation needs none).

Shapes: B = 1 row, T new tokens, L = 1 or T tokens with logits, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slm.core.errors import DamagedError, UserError

if TYPE_CHECKING:
    import numpy.typing as npt

ONLY_ERRORS_THAT_END = 4
"""ONNX Runtime's log level: what else goes wrong arrives as an exception."""


@dataclass(frozen=True, slots=True)
class Past:
    """Keys and values of the tokens read so far, in the order of the session's inputs."""

    tensors: tuple[Any, ...]
    length: int = 0


class OnnxRuntime:
    """An ONNX file opened by ONNX Runtime."""

    def __init__(self, path: Path, *, threads: int) -> None:
        runtime = _runtime(path)
        if not path.is_file():
            raise UserError(f"there is no file {path}; correct the path")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = ONLY_ERRORS_THAT_END
        with _failures(path):
            self._session = runtime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"], enable_fallback=False
            )
            self._inputs = {found.name: found for found in self._session.get_inputs()}
            self._given = {found.name for found in self._session.get_outputs()}
            optional = {found.name for found in self._session.get_overridable_initializers()}
            self._keeps_last = "num_logits_to_keep" in optional
            self._past = [name for name in self._inputs if name.startswith("past_key_values.")]
            self._outputs = ["logits", *(name.replace("past_key_values", "present") for name in self._past)]
            self._check(path)
        self._tensor, self._path = runtime.OrtValue.ortvalue_from_numpy, path

    def empty(self) -> Past:
        """The cache before the first token."""
        shapes = [self._inputs[name].shape for name in self._past]
        zeros = [np.zeros((1, shape[1], 0, shape[3]), dtype=np.float32) for shape in shapes]
        return Past(tuple(map(self._tensor, zeros)))

    def read(self, ids: Sequence[int], past: Past, *, all_logits: bool = False) -> tuple[npt.NDArray[np.float32], Past]:
        """Logits [L, V] of what follows the last of `ids`, or each, and the cache with them."""
        length = past.length + len(ids)
        arrays = {
            "input_ids": np.asarray([ids], dtype=np.int64),
            "attention_mask": np.ones((1, length), dtype=np.int64),
            "position_ids": np.arange(past.length, length, dtype=np.int64)[None],
        }
        fed = {name: self._tensor(array) for name, array in arrays.items() if name in self._inputs}
        fed.update(zip(self._past, past.tensors, strict=True))
        if self._keeps_last:
            fed["num_logits_to_keep"] = self._tensor(np.array([0 if all_logits else 1], dtype=np.int64))
        with _failures(self._path):
            logits, *tensors = self._session.run_with_ort_values(self._outputs, fed)
        if logits.shape()[:1] != [1] or len(logits.shape()) != 3:
            raise DamagedError(f"{self._path} gives logits of the shape {logits.shape()} for one row; export it again")
        logits_LV: npt.NDArray[np.float32] = logits.numpy()[0]
        return (logits_LV if all_logits else logits_LV[-1:]), Past(tuple(tensors), length)

    def _check(self, path: Path) -> None:
        needed = ["input_ids", "attention_mask", "past_key_values.0.key"]
        missing = [name for name in needed if name not in self._inputs] + [
            n for n in self._outputs if n not in self._given
        ]
        if missing:
            raise UserError(
                f"{path} is no decoder with a key-value cache: it has no {missing[0]}; export it with slm export "
                "export.formats=[onnx], or with optimum's task text-generation-with-past"
            )
        unknown = [name for name in self._inputs if name not in (*needed, "position_ids", *self._past)]
        if unknown:
            raise UserError(f"{path} asks for {unknown[0]}, which a decoder of text has no use for; take another file")
        shapes = {name: self._inputs[name].shape for name in self._past}
        wrong = [name for name, shape in shapes.items() if [type(axis) for axis in shape[1::2]] != [int, int]]
        if wrong:
            raise UserError(
                f"{path}: {wrong[0]} has the shape {shapes[wrong[0]]} instead of rows, heads, tokens and "
                "the width of a head; export it again"
            )
        kinds = {self._inputs[name].type for name in self._past} - {"tensor(float)"}
        if kinds:
            raise UserError(f"{path} keeps its cache as {kinds.pop()}, but float32 is needed; export it in float32")


@contextlib.contextmanager
def _failures(path: Path) -> Iterator[None]:
    """What ONNX Runtime raises as one sentence; its exceptions have no common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        yield
    except (
        state.Fail, state.InvalidProtobuf, state.InvalidGraph, state.InvalidArgument, state.RuntimeException,
        state.NotImplemented, state.NoSuchFile, RuntimeError,
        UnicodeDecodeError,  # its message quotes bytes of the file
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:300]
        raise DamagedError(
            f"{path} cannot be run by ONNX Runtime ({reason}); export it again, or bring its model.onnx_data with it"
        ) from error


def _runtime(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path} needs ONNX Runtime, which is not installed; pip install 'slm[onnx]'") from error
    return onnxruntime
