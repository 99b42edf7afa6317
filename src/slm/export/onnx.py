"""A folder that ONNX Runtime, optimum and transformers.js open: the decoder with its cache, and the tokenizer.

In: a model and a tokenizer. Out: `onnx/`, in 8-bit integers `onnx_int8/`, from a variant of the compress stage
`onnx_int4/`: `model.onnx` (the graph, see `slm.export.onnx_graph`), `model.onnx_data` (the matrices, so that no size
ends it), configuration and tokenizer as in a Hugging Face folder. Matrices are written one at a time and read back by
their hash; `onnx.checker` accepts the file, shapes inferred as far as ONNX's own operators go. optimum-onnx 0.1.0 and
transformers.js 4.3.1 (`subfolder: ''`) were tried by hand: their greedy text is ours, in float32 and 8 bits.

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
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import external_data_helper, helper

from slm import __version__
from slm.compress.files import read_integers
from slm.core.errors import DamagedError, UserError
from slm.export.hugging_face import refuse_not_finite
from slm.export.onnx_graph import OPSET, Weights, decoder
from slm.export.onnx_weights import DOMAIN, DataFile, IntegerWeights, PlainWeights, rounded
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


def write(subject: Subject, folder: Path, name: str) -> Written:
    """Write the folder and check what was written."""
    target, config, tokenizer = folder / name, subject.model.config, subject.tokenizer
    refuse_not_finite(subject)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    save_configuration(config, target, torch.float32, ids)
    write_hugging_face(tokenizer, target)
    path = target / ONNX_FILE
    with DataFile(data_path(path)) as data:
        graph = decoder(config, _weights(subject, name, data))
    domains = {"": OPSET} | ({} if name == "onnx" else {DOMAIN: 1})
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets[:1]),
        producer_name="slm", producer_version=__version__,
    )  # fmt: skip
    helper.set_model_props(model, origin(subject))
    path.write_bytes(model.SerializeToString(deterministic=True))
    read_back(path, data.hashes)
    return Written(target, facts=describe(model))


def refuse_unsupported(config: ModelConfig) -> None:
    """Refuse nothing: the graph has all that the model has."""


def _weights(subject: Subject, name: str, data: DataFile) -> Weights:
    """The weights as the format stores them."""
    state = subject.model.state_dict()
    if name == "onnx":
        return PlainWeights(state, data)
    if name == "onnx_int8":
        return IntegerWeights(rounded(state), PlainWeights(state, data), data)
    assert subject.variant is not None
    integers, _ = read_integers(subject.variant)
    widest = max((found.grid.bits for key, found in integers.items() if key.startswith("blocks.")), default=32)
    if widest > 4:
        raise UserError(
            f"export.variant ({subject.variant.name}) has {widest} bits, but onnx_int4 holds 4; name a variant of at "
            "most 4 bits, or export onnx_int8"
        )
    return IntegerWeights(integers, PlainWeights(state, data), data)


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


def data_path(path: Path) -> Path:
    """The file of matrices that belongs to a graph, under the only name that transformers.js looks for."""
    return path.with_name(f"{path.name}_data")


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

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits [T, V] of a row read whole."""
        logits_TV: npt.NDArray[np.float32] = self._model.read(ids, self._model.empty(), all_logits=True)[0].copy()
        return logits_TV

    def greedy(self, ids: Sequence[int], max_tokens: int) -> list[int]:
        """The greedy continuation, up to and with a token that ends a text."""
        past, fed, continuation = self._model.empty(), list(ids), list[int]()
        while len(continuation) < max_tokens and not self._end_ids.intersection(continuation[-1:]):
            logits_1V, past = self._model.read(fed, past)
            fed = [int(logits_1V[0].argmax())]
            continuation += fed
        return continuation
