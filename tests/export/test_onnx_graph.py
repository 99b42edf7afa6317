"""The decoder as a graph: the names that other programs ask for, and nodes that are there once."""

from __future__ import annotations

from collections import Counter

import numpy as np
from onnx import TensorProto, numpy_helper

from slm.export.onnx_graph import Graph, decoder
from slm.model.config import ModelConfig


class NoWeights:
    """Places weights by name alone, to look at the graph around them."""

    def vector(self, graph: Graph, name: str) -> str:
        del graph
        return name

    def rows(self, graph: Graph, name: str, ids_BT: str) -> str:
        return graph.add("Gather", [name, ids_BT], "rows.of.embedding")

    def product(self, graph: Graph, x_NI: str, name: str, result: str) -> str:
        return graph.add("Gemm", [x_NI, name], result, transB=1)


def test_equal_constants_are_one_and_types_are_kept_apart() -> None:
    graph = Graph()
    names = [graph.constant([-1]), graph.constant([-1]), graph.constant(-1), graph.constant([-1], np.float32)]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    values = [numpy_helper.to_array(tensor) for tensor in graph.initializers]
    assert [(value.dtype.name, value.shape) for value in values] == [("int64", (1,)), ("int64", ()), ("float32", (1,))]


def test_inputs_and_outputs_have_the_names_that_other_programs_ask_for() -> None:
    graph = decoder(ModelConfig(layers=2), NoWeights())
    past = [f"past_key_values.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
    names = [value.name for value in graph.input]
    assert names == ["input_ids", "attention_mask", "position_ids", *past, "num_logits_to_keep"]
    assert [value.name for value in graph.output] == [
        "logits",
        *(name.replace("past_key_values", "present") for name in past),
    ]
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    assert kinds["input_ids"] == kinds["attention_mask"] == kinds["position_ids"] == TensorProto.INT64
    assert kinds["past_key_values.1.value"] == TensorProto.FLOAT
    default = next(tensor for tensor in graph.initializer if tensor.name == "num_logits_to_keep")
    assert numpy_helper.to_array(default).tolist() == [0]


def test_a_layer_costs_the_same_nodes_each_and_every_name_is_one_result() -> None:
    sizes = {layers: len(decoder(ModelConfig(layers=layers), NoWeights()).node) for layers in (1, 2, 5)}
    assert sizes[5] - sizes[2] == 3 * (sizes[2] - sizes[1])
    assert sizes[2] - sizes[1] == 21
    graph = decoder(ModelConfig(layers=3, qk_norm=True, sliding_window=8), NoWeights())
    results = Counter(result for node in graph.node for result in node.output)
    assert set(results.values()) == {1}
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert set(results) <= used
