"""Which type a tensor has is llama.cpp's rule, and each type rounds as far as it may."""

from __future__ import annotations

import gguf as gguf_library
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gguf import GGMLQuantizationType as TensorType
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slm.export import gguf
from slm.export.gguf import Entry
from slm.export.gguf_types import KINDS, Model, is_fallback, rounding, stored_type

Matrix = npt.NDArray[np.float32]
TYPES = [*dict.fromkeys(kind.tensors for kind in KINDS.values()), TensorType.Q5_1]
numbers = st.floats(-60000, 60000, width=32) | st.floats(-(2**-20), 2**-20, width=32)


def entry(values: Matrix, kind: TensorType) -> Entry:
    return Entry("x", "blocks.0.ffn.up.weight", torch.from_numpy(values), kind)


@given(arrays(np.float32, (2, 256), elements=numbers), st.sampled_from(TYPES))
def test_what_is_stored_differs_by_no_more_than_the_type_rounds(values: Matrix, kind: TensorType) -> None:
    decoded = gguf_library.quants.dequantize(gguf.encode(entry(values, kind)), kind)
    assert (np.abs(decoded - values) <= rounding(values, kind)).all()


@pytest.mark.parametrize("kind", [TensorType.F16, TensorType.BF16, TensorType.Q8_0])
def test_the_bound_of_a_type_is_tight_enough_to_notice_a_wrong_number(kind: TensorType) -> None:
    values = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    step = rounding(values, kind)
    decoded = gguf_library.quants.dequantize(gguf.encode(entry(values, kind)), kind)
    assert np.abs(decoded - values).max() > 0.4 * step.max()


def test_more_bits_round_less() -> None:
    values = np.random.default_rng(0).normal(size=(8, 512)).astype(np.float32)
    coarse_first = [TensorType.Q4_0, TensorType.Q4_K, TensorType.Q5_K, TensorType.Q6_K, TensorType.Q8_0]
    errors = [
        float(np.square(gguf_library.quants.dequantize(gguf.encode(entry(values, kind)), kind) - values).mean())
        for kind in coarse_first
    ]
    assert errors == sorted(errors, reverse=True)


def types(name: str, kind: str, layers: int, *, weighed: bool = False) -> list[str]:
    model = Model(layers, tied=False, weighed=weighed)
    return [stored_type(name.format(layer), (64, 256), KINDS[kind], model).name for layer in range(layers)]


@pytest.mark.parametrize("name", ["blk.{}.attn_v.weight", "blk.{}.ffn_down.weight"])
def test_values_and_down_have_six_bits_in_the_first_and_last_eighth_and_each_third_between(name: str) -> None:
    better = [layer for layer, found in enumerate(types(name, "gguf_q4_k_m", 16)) if found == "Q6_K"]
    assert better == [0, 1, 4, 7, 10, 13, 14, 15]
    assert set(types(name, "gguf_q6_k", 16)) == {"Q6_K"}
    assert set(types(name, "gguf_q4_0", 16)) == {"Q4_0"}
    assert set(types("blk.{}.attn_q.weight", "gguf_q4_k_m", 16)) == {"Q4_K"}


@pytest.mark.parametrize(("kind", "expected"), [("gguf_q4_k_m", "Q6_K"), ("gguf_q4_0", "Q6_K"), ("gguf_q8_0", "Q8_0")])
def test_the_head_has_six_bits_also_where_it_is_the_embedding(kind: str, expected: str) -> None:
    embedding, head = "token_embd.weight", "output.weight"
    tied, untied = Model(4, tied=True), Model(4, tied=False)
    assert stored_type(head, (64, 256), KINDS[kind], untied).name == expected
    assert stored_type(embedding, (64, 256), KINDS[kind], tied).name == expected
    assert stored_type(embedding, (64, 256), KINDS[kind], untied) == KINDS[kind].tensors


def test_with_an_importance_matrix_down_of_the_first_eighth_gets_a_zero_point() -> None:
    down, up = "blk.{}.ffn_down.weight", "blk.{}.ffn_up.weight"
    assert types(down, "gguf_q4_0", 16, weighed=True) == ["Q4_1"] * 2 + ["Q4_0"] * 14
    assert types(down, "gguf_q5_0", 16, weighed=True) == ["Q5_1"] * 2 + ["Q5_0"] * 14
    assert set(types(up, "gguf_q4_0", 16, weighed=True)) == {"Q4_0"}
    for kind in ("gguf_q4_k_m", "gguf_q5_k_m", "gguf_q6_k", "gguf_q8_0"):
        assert types(down, kind, 16, weighed=True) == types(down, kind, 16)


@pytest.mark.parametrize(
    ("kind", "columns", "expected"),
    [
        ("gguf_q4_k_m", 576, "Q5_0"), ("gguf_q5_k_m", 576, "Q5_1"), ("gguf_q6_k", 576, "Q8_0"),
        ("gguf_q4_k_m", 88, "F16"), ("gguf_q4_0", 88, "F16"), ("gguf_q8_0", 88, "F16"), ("gguf_q4_0", 576, "Q4_0"),
    ],
)  # fmt: skip
def test_rows_that_no_block_fills_fall_back_as_in_llama_cpp(kind: str, columns: int, expected: str) -> None:
    facts = ("blk.3.attn_q.weight", (64, columns), KINDS[kind], Model(8, tied=False))
    assert stored_type(*facts).name == expected
    assert is_fallback(*facts) == (expected != KINDS[kind].tensors.name)
    assert stored_type("blk.3.attn_norm.weight", (columns,), *facts[2:]) == TensorType.F32
