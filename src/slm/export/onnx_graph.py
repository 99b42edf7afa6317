"""The decoder as an ONNX graph: one graph that reads a prompt and then one token after another.

In: a model's shape, and a way to place its matrices. Out: nodes, inputs and outputs under the names that optimum and
transformers.js ask for. Nothing is traced: a block is 21 nodes (25 with QK-norm), named after our modules, and a weight
is stored as our state dict has it. Rotary angles are computed from the positions, so no table ends the length.

    input_ids            int64    [batch_size, sequence_length]
    attention_mask       int64    [batch_size, total_sequence_length], 0 where a token (of the cache too) is padding
    position_ids         int64    [batch_size, sequence_length]
    past_key_values.N.*  float32  [batch_size, kv_heads, past_sequence_length, head_dim], length 0 at first
    num_logits_to_keep   int64    scalar, may be left out: how many last positions get logits; 0, its default, is all
    logits               float32  [batch_size, kept_sequence_length, vocab_size]
    present.N.*          float32  [batch_size, kv_heads, total_sequence_length, head_dim], the next call's past

What is masked has the lowest float32 instead of -inf, so that no runtime makes NaN of a row of nothing but padding,
which would stay in the cache. (ONNX Runtime and onnx's reference make none of -inf either.)

Shapes: B rows, T new tokens, K tokens in cache and row, L tokens with logits, N = B * T, D width, E ffn_width,
V vocabulary, F = head_dim / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from slm.model.rope import frequencies

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from slm.model.config import ModelConfig

OPSET = 23
"""The first with RMSNormalization, RotaryEmbedding and Attention."""
LAST = 2**31 - 1


class Graph:
    """Nodes and small constants of a graph in the making; every result has a name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, kind: str, inputs: Sequence[str], result: str, *more_results: str, **attributes: Any) -> str:
        """Add a node of one result, which is its name too, or of several; returns the first."""
        self.nodes.append(helper.make_node(kind, inputs, [result, *more_results], name=result, **attributes))
        return result

    def constant(self, value: npt.ArrayLike, dtype: type = np.int64) -> str:
        """The name of a small constant; equal ones are one."""
        array: npt.NDArray[Any] = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = f"constant.{len(self._constants)}"
            self.initializers.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]


class Weights(Protocol):
    """Where a graph's weights come from: who places them decides how they are stored and multiplied."""

    def vector(self, graph: Graph, name: str) -> str:
        """The name under which the vector `name` of our state dict stands in the graph."""

    def rows(self, graph: Graph, name: str, ids_BT: str) -> str:
        """Rows of the matrix `name`, [B, T, columns], float32."""

    def product(self, graph: Graph, x_NI: str, name: str, result: str) -> str:
        """`x_NI` times the transposed matrix `name` [O, I]: [N, O], called `result`."""


def decoder(config: ModelConfig, weights: Weights) -> onnx.GraphProto:
    """The whole graph."""
    graph = Graph()
    rows_3 = graph.add("Concat", [graph.add("Shape", ["input_ids"], "shape"), graph.constant([-1])], "rows", axis=0)
    seen = Seen(rows_3, _mask(graph, config), *_rotation(graph, config))
    x_BTD = weights.rows(graph, "embedding.weight", "input_ids")
    x_ND = graph.add("Reshape", [x_BTD, graph.constant([-1, config.width])], "embedding")
    for layer in range(config.layers):
        x_ND = _block(graph, config, weights, layer, x_ND, seen)
    x_ND = _norm(graph, config, weights, x_ND, "norm")
    x_BTD = graph.add("Reshape", [x_ND, rows_3], "hidden")
    first = graph.add("Neg", ["num_logits_to_keep"], "first_kept")
    kept_BLD = graph.add("Slice", [x_BTD, first, graph.constant([LAST]), graph.constant([1])], "kept")
    kept_ND = graph.add("Reshape", [kept_BLD, graph.constant([-1, config.width])], "kept_rows")
    head = "embedding.weight" if config.tie_embeddings else "head.weight"
    logits_NV = weights.product(graph, kept_ND, head, "head")
    kept_shape = graph.add("Shape", [kept_BLD], "kept_shape", start=0, end=2)
    shape_BLV = graph.add("Concat", [kept_shape, graph.constant([-1])], "logits_shape", axis=0)
    graph.add("Reshape", [logits_NV, shape_BLV], "logits")
    all_kept = numpy_helper.from_array(np.zeros(1, np.int64), "num_logits_to_keep")
    inputs, outputs = _interface(config)
    return helper.make_graph(graph.nodes, "decoder", inputs, outputs, [all_kept, *graph.initializers])


@dataclass(frozen=True, slots=True)
class Seen:
    """What all blocks share, by name."""

    rows_3: str
    """The shape [B, T, -1]."""
    mask_B1TK: str
    """0 where a token sees another, the lowest float32 where not."""
    cos_BTF: str
    sin_BTF: str


def _interface(config: ModelConfig) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    def value(name: str, dimensions: list[str | int], kind: int = TensorProto.INT64) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, dimensions)

    def cached(stem: str, length: str) -> list[onnx.ValueInfoProto]:
        shape: list[str | int] = ["batch_size", config.kv_heads, length, config.head_dim]
        names = (f"{stem}.{layer}.{part}" for layer in range(config.layers) for part in ("key", "value"))
        return [value(name, shape, TensorProto.FLOAT) for name in names]

    new: list[str | int] = ["batch_size", "sequence_length"]
    inputs = [
        value("input_ids", new),
        value("attention_mask", ["batch_size", "total_sequence_length"]),
        value("position_ids", new),
        *cached("past_key_values", "past_sequence_length"),
        value("num_logits_to_keep", [1]),
    ]
    logits = value("logits", ["batch_size", "kept_sequence_length", config.vocab_size], TensorProto.FLOAT)
    return inputs, [logits, *cached("present", "total_sequence_length")]


def _mask(graph: Graph, config: ModelConfig) -> str:
    """What each new token sees: real tokens up to itself, within the window."""
    past = graph.add("Squeeze", [graph.add("Shape", ["past_key_values.0.key"], "past.shape", start=2, end=3)], "past")
    total = graph.add("Squeeze", [graph.add("Shape", ["attention_mask"], "total.shape", start=1, end=2)], "total")
    one = graph.constant(1)
    keys_K = graph.add("Range", [graph.constant(0), total, one], "keys")
    queries_T = graph.add("Range", [past, total, one], "queries")
    queries_T1 = graph.add("Unsqueeze", [queries_T, graph.constant([1])], "queries.column")
    sees_TK = graph.add("LessOrEqual", [keys_K, queries_T1], "causal")
    if config.sliding_window:
        start_T1 = graph.add("Sub", [queries_T1, graph.constant(config.sliding_window)], "window.start")
        near_TK = graph.add("Greater", [keys_K, start_T1], "window")
        sees_TK = graph.add("And", [sees_TK, near_TK], "causal.window")
    real_BK = graph.add("Cast", ["attention_mask"], "real", to=TensorProto.BOOL)
    real_B11K = graph.add("Unsqueeze", [real_BK, graph.constant([1, 2])], "real.keys")
    sees_B1TK = graph.add("And", [sees_TK, real_B11K], "sees")
    hidden = float(np.finfo(np.float32).min)
    return graph.add("Where", [sees_B1TK, graph.constant(0, np.float32), graph.constant(hidden, np.float32)], "mask")


def _rotation(graph: Graph, config: ModelConfig) -> tuple[str, str]:
    """Cosines and sines [B, T, F] of the positions."""
    positions_BT = graph.add("Cast", ["position_ids"], "positions", to=TensorProto.FLOAT)
    positions_BT1 = graph.add("Unsqueeze", [positions_BT, graph.constant([2])], "positions.column")
    radians_F = graph.constant(frequencies(config).numpy(), np.float32)
    angles_BTF = graph.add("Mul", [positions_BT1, radians_F], "angles")
    return graph.add("Cos", [angles_BTF], "cos"), graph.add("Sin", [angles_BTF], "sin")


def _block(graph: Graph, config: ModelConfig, weights: Weights, layer: int, x_ND: str, seen: Seen) -> str:
    stem = f"blocks.{layer}"
    normal_ND = _norm(graph, config, weights, x_ND, f"{stem}.attention_norm")
    attended_ND = _attention(graph, config, weights, layer, normal_ND, seen)
    x_ND = graph.add("Add", [x_ND, attended_ND], f"{stem}.middle")
    normal_ND = _norm(graph, config, weights, x_ND, f"{stem}.ffn_norm")
    gate_NE, up_NE = (
        weights.product(graph, normal_ND, f"{stem}.ffn.{part}.weight", f"{stem}.ffn.{part}") for part in ("gate", "up")
    )
    silu_NE = graph.add("Mul", [gate_NE, graph.add("Sigmoid", [gate_NE], f"{stem}.ffn.sigmoid")], f"{stem}.ffn.silu")
    inner_NE = graph.add("Mul", [silu_NE, up_NE], f"{stem}.ffn.inner")
    down_ND = weights.product(graph, inner_NE, f"{stem}.ffn.down.weight", f"{stem}.ffn.down")
    return graph.add("Add", [x_ND, down_ND], stem)


def _attention(graph: Graph, config: ModelConfig, weights: Weights, layer: int, x_ND: str, seen: Seen) -> str:
    stem, past = f"blocks.{layer}.attention", f"past_key_values.{layer}"
    heads = {"q": config.heads, "k": config.kv_heads, "v": config.kv_heads}
    projected: dict[str, str] = {}
    for part, number in heads.items():
        result = weights.product(graph, x_ND, f"{stem}.{part}.weight", f"{stem}.{part}")
        if config.qk_norm and part != "v":
            by_head = graph.add("Reshape", [result, graph.constant([-1, config.head_dim])], f"{result}.heads")
            result = _norm(graph, config, weights, by_head, f"{stem}.{part}_norm")
        result = graph.add("Reshape", [result, seen.rows_3], f"{result}.rows")
        if part != "v":
            rotation = [result, seen.cos_BTF, seen.sin_BTF]
            result = graph.add("RotaryEmbedding", rotation, f"{stem}.{part}.turned", num_heads=number)
        projected[part] = result
    inputs = [*projected.values(), seen.mask_B1TK, f"{past}.key", f"{past}.value"]
    results = [f"{stem}.heads", f"present.{layer}.key", f"present.{layer}.value"]
    graph.add("Attention", inputs, *results, q_num_heads=config.heads, kv_num_heads=config.kv_heads)
    width = graph.constant([-1, config.heads * config.head_dim])
    flat_NW = graph.add("Reshape", [results[0], width], f"{stem}.out")
    return weights.product(graph, flat_NW, f"{stem}.o.weight", f"{stem}.o")


def _norm(graph: Graph, config: ModelConfig, weights: Weights, x: str, name: str) -> str:
    scale = weights.vector(graph, f"{name}.weight")
    return graph.add("RMSNormalization", [x, scale], name, axis=-1, epsilon=config.norm_eps)
