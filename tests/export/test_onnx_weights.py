"""Where weights of a graph lie, and which integers ONNX Runtime takes; what it computes from them is in test_onnx."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import external_data_helper

from slm.core.errors import UserError
from slm.export.onnx_graph import Graph
from slm.export.onnx_weights import PAGE, DataFile, IntegerWeights, PlainWeights, operator_group, rounded
from slm.model.integers import Grid, quantize

STATE = {"a.weight": torch.arange(96.0).reshape(3, 32), "b.weight": torch.arange(64.0).reshape(4, 16)}


def test_matrices_begin_at_pages_and_each_is_there_once(tmp_path: Path) -> None:
    graph = Graph()
    with DataFile(tmp_path / "data") as data:
        weights = PlainWeights(STATE, data)
        for name in ("a.weight", "b.weight", "a.weight"):
            weights.product(graph, "x", name, f"product.{len(graph.nodes)}")
    content = (tmp_path / "data").read_bytes()
    assert len(content) == PAGE + STATE["b.weight"].nbytes
    assert [tensor.name for tensor in graph.initializers] == list(STATE)
    for tensor in graph.initializers:
        where = external_data_helper.ExternalDataInfo(tensor)
        assert (where.location, where.offset % PAGE) == ("data", 0)
        stored = np.frombuffer(content[where.offset : where.offset + where.length], np.float32)
        assert np.array_equal(stored.reshape(tensor.dims), STATE[tensor.name].numpy())


def test_matrices_are_rounded_in_groups_that_the_operator_takes() -> None:
    found = rounded(STATE | {"norm.weight": torch.ones(8)})
    assert {name: matrix.grid for name, matrix in found.items()} == {
        "a.weight": Grid(8, 32, symmetric=True),
        "b.weight": Grid(8, 16, symmetric=True),
    }


@pytest.mark.parametrize(
    ("inputs", "at_most", "group"), [(512, 512, 256), (96, 64, 32), (1536, 128, 128), (48, 48, 16)]
)
def test_a_row_is_cut_into_the_largest_group_that_divides_it(inputs: int, at_most: int, group: int) -> None:
    assert operator_group("a", inputs, at_most) == group


def test_what_the_operator_cannot_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"blocks\.0\.ffn\.down\.weight has rows of 88, which no group of 16 weights"):
        rounded({"blocks.0.ffn.down.weight": torch.ones(4, 88)})
    integers = {"a.weight": quantize(STATE["a.weight"], Grid(8, 32))}
    with DataFile(tmp_path / "data") as data:
        weights = IntegerWeights(integers, PlainWeights(STATE, data), data)
        with pytest.raises(UserError, match=r"a\.weight has zero points of its own, but its rows are read from"):
            weights.rows(Graph(), "a.weight", "input_ids")
