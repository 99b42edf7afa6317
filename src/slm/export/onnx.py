"""A folder that ONNX Runtime, optimum and transformers.js open: the decoder with its cache, and the tokenizer.

In: a model and a tokenizer. Out: `onnx/` with `model.onnx` (the graph, see `slm.export.onnx_graph`), `model.onnx.data`
(the matrices, so that no size ends it), configuration and tokenizer as in a Hugging Face folder. Matrices are converted
and written one at a time and read back by their hash; `onnx.checker` accepts the file with all shapes inferred.

The proof runs the file in ONNX Runtime. It reads each row in three pieces, the last of one token, over the cache: what
is held against the model, which reads rows whole and without one, is a prompt, its continuation and a decoded token.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from torch import Tensor

from slm import __version__
from slm.core.errors import DamagedError
from slm.export.hugging_face import refuse_not_finite
from slm.export.onnx_graph import OPSET, Graph, decoder
from slm.export.parity import log_softmax
from slm.export.subject import Engine, Quantity, Subject, Written
from slm.model.hugging_face import save_configuration
from slm.serve.engine import ONNX_FILE
from slm.serve.onnx_runtime import OnnxRuntime
from slm.serve.vocabulary import open_vocabulary
from slm.tokenizer.hugging_face import write_hugging_face

if TYPE_CHECKING:
    import numpy.typing as npt

    from slm.model.config import ModelConfig

PAGE = 4096
"""Matrices begin at multiples of this, so that programs can map them (onnx's own rule for external data)."""


def write(subject: Subject, folder: Path, name: str) -> Written:
    """Write the folder and check what was written."""
    target, config, tokenizer = folder / name, subject.model.config, subject.tokenizer
    refuse_not_finite(subject)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    save_configuration(config, target, torch.float32, ids)
    write_hugging_face(tokenizer, target)
    path = target / ONNX_FILE
    with DataFile(data_path(path)) as data:
        graph = decoder(config, PlainWeights(subject.model.state_dict(), data))
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="slm", producer_version=__version__,
    )  # fmt: skip
    helper.set_model_props(model, origin(subject))
    path.write_bytes(model.SerializeToString(deterministic=True))
    read_back(path, data.hashes)
    return Written(target, facts=describe(model))


def refuse_unsupported(config: ModelConfig) -> None:
    """Refuse nothing: the graph has all that the model has."""


def origin(subject: Subject) -> dict[str, str]:
    """Where the file comes from, as its metadata says."""
    licences = sorted({dataset.licence for dataset in subject.datasets if dataset.licence})
    return {
        "name": subject.name,
        "license": " AND ".join(licences),
        "datasets": ", ".join(dataset.name for dataset in subject.datasets),
        "slm.checkpoint": subject.checkpoint,
        "slm.tokenizer": subject.tokenizer.hash,
    }


def describe(model: onnx.ModelProto) -> dict[str, Any]:
    """What a person who runs the file must know; tensors of all layers are named once, as N."""

    def shapes(values: Sequence[onnx.ValueInfoProto]) -> dict[str, list[str | int]]:
        return {
            re.sub(r"\.\d+\.", ".N.", value.name): [
                axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim
            ]
            for value in values
        }

    return {
        "producer": f"{model.producer_name} {model.producer_version}",
        "ir_version": model.ir_version,
        "opsets": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "inputs": shapes(model.graph.input),
        "outputs": shapes(model.graph.output),
    }


class DataFile:
    """The file of matrices beside a graph, filled one matrix at a time."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("wb")
        self.hashes: dict[str, str] = {}
        """sha256 of the bytes of each matrix."""

    def put(self, name: str, array: npt.NDArray[Any]) -> onnx.TensorProto:
        """Append a matrix; returns the tensor that refers to it."""
        self._file.write(bytes(-self._file.tell() % PAGE))
        content = np.ascontiguousarray(array).data.cast("B")
        entries = {"location": self._path.name, "offset": self._file.tell(), "length": content.nbytes}
        self._file.write(content)
        self.hashes[name] = hashlib.sha256(content).hexdigest()
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def __enter__(self) -> DataFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class PlainWeights:
    """Weights of a graph in float32, as the state dict has them."""

    def __init__(self, state: Mapping[str, Tensor], data: DataFile) -> None:
        self._state, self._data = state, data
        self._placed: set[str] = set()

    def vector(self, graph: Graph, name: str) -> str:
        graph.initializers.append(numpy_helper.from_array(self._values(name), name))
        return name

    def rows(self, graph: Graph, name: str, ids_BT: str) -> str:
        return graph.add("Gather", [self._matrix(graph, name), ids_BT], "embedding.rows")

    def product(self, graph: Graph, x_NI: str, name: str, result: str) -> str:
        return graph.add("Gemm", [x_NI, self._matrix(graph, name)], result, transB=1)

    def _matrix(self, graph: Graph, name: str) -> str:
        if name not in self._placed:
            graph.initializers.append(self._data.put(name, self._values(name)))
            self._placed.add(name)
        return name

    def _values(self, name: str) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = self._state[name].detach().float().cpu().numpy()
        return values


def data_path(path: Path) -> Path:
    """The file of matrices that belongs to a graph."""
    return path.with_name(f"{path.name}.data")


def read_back(path: Path, hashes: Mapping[str, str]) -> None:
    """Have onnx check a finished file, and compare every matrix with what was to be written."""
    try:
        onnx.checker.check_model(path, full_check=True)
        graph = onnx.load(path, load_external_data=False).graph
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise DamagedError(f"{path.name} is not what onnx accepts ({error}); export again") from error
    found = {tensor.name: tensor for tensor in graph.initializer if external_data_helper.uses_external_data(tensor)}
    with data_path(path).open("rb") as file:
        for name, expected in hashes.items():
            where = external_data_helper.ExternalDataInfo(found[name])
            file.seek(where.offset or 0)
            if hashlib.sha256(file.read(where.length or 0)).hexdigest() != expected:
                raise DamagedError(f"{path.name}: {name} read back differs; check the disk and export again")


@contextlib.contextmanager
def engine(written: Path, *, end_ids: frozenset[int], context_tokens: int, threads: int) -> Iterator[Engine]:
    """ONNX Runtime with the file."""
    del context_tokens
    yield OnnxEngine(written, end_ids, threads)


class OnnxEngine:
    """ONNX Runtime as the parity proof sees it."""

    quantity: Quantity = "log-probabilities"
    misread = ""

    def __init__(self, folder: Path, end_ids: frozenset[int], threads: int) -> None:
        self._model, self._end_ids = OnnxRuntime(folder / ONNX_FILE, threads=threads), end_ids
        self._vocabulary = open_vocabulary(folder)

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, start token included."""
        return self._vocabulary.encode(text)

    def scores(self, ids: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float64]:
        """Log-probabilities [positions, V] of a row read in up to three pieces, the last of one token."""
        cuts = sorted({0, len(ids) // 2, len(ids) - 1, len(ids)})
        past, pieces = self._model.empty(), []
        for start, stop in itertools.pairwise(cuts):
            logits_TV, past = self._model.read(ids[start:stop], past, all_logits=True)
            pieces.append(logits_TV.copy())
        return log_softmax(np.concatenate(pieces)[list(positions)].astype(np.float64))

    def greedy(self, ids: Sequence[int], max_tokens: int) -> list[int]:
        """The greedy continuation, up to and with a token that ends a text."""
        past, fed, continuation = self._model.empty(), list(ids), list[int]()
        while len(continuation) < max_tokens and not self._end_ids.intersection(continuation[-1:]):
            logits_1V, past = self._model.read(fed, past)
            fed = [int(logits_1V[0].argmax())]
            continuation += fed
        return continuation
