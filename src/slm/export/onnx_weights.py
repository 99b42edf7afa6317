"""The weights of an ONNX graph: in float32, or as integers that ONNX Runtime multiplies as they are.

In: a state dict, or matrices on the grids of `slm.model.integers`. Out: the file of matrices beside the graph, filled
one matrix at a time, and the nodes that multiply by them.

Integers take ONNX Runtime's operator MatMulNBits, which says (q - z) * s as we do, so nothing is rounded again:
a matrix `NAME` is uint8 [O, G, S], or of up to 4 bits two to a byte, with `NAME.scales` in float32 and, unless all lie
in the middle, `NAME.zeros`. Rows that share one scale are cut into groups that the operator takes, the scale repeated.
Activations are rounded to 8 bits per row and group as they come, so a token's logits do not depend on what is read with
it, as they would with ONNX's DynamicQuantizeLinear, which takes one scale for all of a prompt. The embedding's rows
are read from the bytes that the head multiplies by, through plain operators. What it buys in time and costs in quality
stands in each export's table and in `benchmarks/flavours.md`.

Shapes: B rows, T tokens, N = B * T, O outputs, I inputs, G groups, S numbers of a group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from slm.core.errors import UserError
from slm.export.onnx_graph import Graph
from slm.model.integers import Grid, Integers, grouped, pack, quantize

if TYPE_CHECKING:
    import numpy.typing as npt

PAGE = 4096
"""Matrices begin at multiples of this, so that programs can map them (onnx's own rule for external data)."""
DOMAIN = "com.microsoft"
INT8_ACTIVATIONS = 4
"""MatMulNBits' `accuracy_level` for products of 8-bit integers."""
OPERATOR_GROUPS = (256, 128, 64, 32, 16)
"""Group sizes that MatMulNBits takes."""
ROUNDED_GROUP = 64
"""Group of matrices that are rounded here: 8.5 bits a weight with its scale in float32."""


class DataFile:
    """The file of matrices beside a graph."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("wb")
        self.hashes: dict[str, str] = {}
        """sha256 of the bytes of each matrix."""

    def place(self, graph: Graph, name: str, values: Callable[[], Tensor]) -> str:
        """Append a matrix, unless it is there, and name it in the graph; returns its name."""
        if name in self.hashes:
            return name
        array = np.ascontiguousarray(values().detach().cpu().numpy())
        self._file.write(bytes(-self._file.tell() % PAGE))
        entries = {"location": self._path.name, "offset": self._file.tell(), "length": array.nbytes}
        self._file.write(array.data.cast("B"))
        self.hashes[name] = hashlib.sha256(array.data).hexdigest()
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        graph.initializers.append(tensor)
        return name

    def __enter__(self) -> DataFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class PlainWeights:
    """Float32, as the state dict has them."""

    def __init__(self, state: Mapping[str, Tensor], data: DataFile) -> None:
        self._state, self._data = state, data

    def vector(self, graph: Graph, name: str) -> str:
        values: npt.NDArray[np.float32] = self._state[name].detach().float().cpu().numpy()
        graph.initializers.append(numpy_helper.from_array(values, name))
        return name

    def rows(self, graph: Graph, name: str, ids_BT: str) -> str:
        return graph.add("Gather", [self._matrix(graph, name), ids_BT], f"{name}.rows")

    def product(self, graph: Graph, x_NI: str, name: str, result: str) -> str:
        return graph.add("Gemm", [x_NI, self._matrix(graph, name)], result, transB=1)

    def _matrix(self, graph: Graph, name: str) -> str:
        return self._data.place(graph, name, lambda: self._state[name].float())


class IntegerWeights:
    """Matrices on grids as integers, what is on none as `plain` has it."""

    def __init__(self, integers: Mapping[str, Integers], plain: PlainWeights, data: DataFile) -> None:
        self._integers, self._plain, self._data = integers, plain, data

    def vector(self, graph: Graph, name: str) -> str:
        return self._plain.vector(graph, name)

    def rows(self, graph: Graph, name: str, ids_BT: str) -> str:
        if name not in self._integers:
            return self._plain.rows(graph, name, ids_BT)
        values, scales, *zeros = self._stored(graph, name)
        if zeros:
            raise UserError(f"{name} has zero points of its own, but its rows are read from a symmetric grid only; "
                            "compress again, which gives it one")  # fmt: skip
        packed, last = graph.add("Gather", [values, ids_BT], f"{name}.packed"), graph.constant([-1])
        width = _width(self._integers[name])
        if width == 4:
            low = graph.add("BitwiseAnd", [packed, graph.constant(15, np.uint8)], f"{name}.low")
            high = graph.add("BitShift", [packed, graph.constant(4, np.uint8)], f"{name}.high", direction="RIGHT")
            pair = [graph.add("Unsqueeze", [half, last], f"{half}.column") for half in (low, high)]
            pairs = graph.add("Concat", pair, f"{name}.pairs", axis=-1)
            packed = graph.add("Reshape", [pairs, graph.constant([0, 0, 0, -1])], f"{name}.unpacked")
        steps = graph.add("Cast", [packed], f"{name}.steps", to=TensorProto.FLOAT)
        centred = graph.add("Sub", [steps, graph.constant(1 << (width - 1), np.float32)], f"{name}.centred")
        scale = graph.add("Unsqueeze", [graph.add("Gather", [scales, ids_BT], f"{name}.scale"), last], f"{name}.column")
        scaled = graph.add("Mul", [centred, scale], f"{name}.scaled")
        return graph.add("Reshape", [scaled, graph.constant([0, 0, -1])], f"{name}.rows")

    def product(self, graph: Graph, x_NI: str, name: str, result: str) -> str:
        if name not in self._integers:
            return self._plain.product(graph, x_NI, name, result)
        outputs, inputs = self._integers[name].values_OI.shape
        return graph.add(
            "MatMulNBits", [x_NI, *self._stored(graph, name)], result, domain=DOMAIN, K=inputs, N=outputs,
            bits=_width(self._integers[name]), block_size=_group(name, self._integers[name]),
            accuracy_level=INT8_ACTIVATIONS,
        )  # fmt: skip

    def _stored(self, graph: Graph, name: str) -> list[str]:
        """Names of the integers, their scales and, unless all lie in the middle, their zero points."""
        found = self._integers[name]
        inputs, width = found.values_OI.shape[1], _width(found)
        groups = inputs // _group(name, found)
        repeated = groups // found.scales_OG.shape[1]
        zeros_OG = found.zeros_OG.repeat_interleave(repeated, dim=1)
        names = [
            self._data.place(graph, name, lambda: pack(grouped(found.values_OI, groups), width)),
            self._data.place(
                graph, f"{name}.scales", lambda: found.scales_OG.float().repeat_interleave(repeated, dim=1)
            ),
        ]
        if bool((zeros_OG != 1 << (width - 1)).any()):
            even_OG = torch.nn.functional.pad(zeros_OG, (0, groups % 2))
            names.append(
                self._data.place(graph, f"{name}.zeros", lambda: pack(even_OG if width == 4 else zeros_OG, width))
            )
        return names


def rounded(state: Mapping[str, Tensor]) -> dict[str, Integers]:
    """All matrices of a state dict, rounded to 8 bits."""
    matrices = {name: tensor for name, tensor in state.items() if tensor.dim() == 2}
    return {
        name: quantize(tensor, Grid(8, operator_group(name, tensor.shape[1], ROUNDED_GROUP), symmetric=True))
        for name, tensor in matrices.items()
    }


def operator_group(name: str, inputs: int, at_most: int) -> int:
    """The largest group that MatMulNBits takes and that divides a row of `inputs`."""
    found = next((size for size in OPERATOR_GROUPS if size <= at_most and inputs % size == 0), 0)
    if not found:
        raise UserError(
            f"{name} has rows of {inputs:,}, which no group of 16 weights or more divides, so ONNX Runtime cannot "
            "multiply it in integers; export onnx instead, or choose widths that are multiples of 32"
        )
    return found


def _width(found: Integers) -> int:
    """Bits that an integer takes in the file."""
    return 4 if found.grid.bits <= 4 else 8


def _group(name: str, found: Integers) -> int:
    inputs = found.values_OI.shape[1]
    return operator_group(name, inputs, found.grid.group_size or inputs)
