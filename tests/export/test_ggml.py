"""ggml's quantizers through ctypes: the bytes of gguf-py where it has them, less error where importance says so."""

from __future__ import annotations

from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as TensorType

from slm.core.errors import UserError
from slm.export import ggml


@pytest.mark.parametrize("kind", [TensorType.Q8_0, TensorType.Q5_0, TensorType.Q4_0])
def test_the_library_gives_gguf_pys_bytes(kind: TensorType, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=(8, 512)).astype(np.float32)
    monkeypatch.setattr(ggml, "NEEDS_GGML", tuple(TensorType))
    assert np.array_equal(ggml.quantize(values, kind), gguf.quants.quantize(values, kind))


@pytest.mark.parametrize("kind", [*ggml.NEEDS_GGML, TensorType.Q8_0, TensorType.Q5_0, TensorType.Q4_0])
def test_numbers_too_small_for_any_scale_become_zero_without_a_warning(kind: TensorType) -> None:
    values = np.full((1, 256), 1.28703e-39, np.float32)
    assert not gguf.quants.dequantize(ggml.quantize(values, kind), kind).any()


@pytest.mark.parametrize("kind", [*ggml.NEEDS_GGML, TensorType.Q4_0, TensorType.Q5_0])
def test_columns_that_matter_err_less(kind: TensorType) -> None:
    draw = np.random.default_rng(2)
    values = draw.normal(size=(64, 512)).astype(np.float32)
    importance = np.where(np.arange(512) % 8 == 0, 100.0, 0.01).astype(np.float32)

    def error(stored: np.ndarray) -> float:
        return float((np.square(gguf.quants.dequantize(stored, kind) - values) * importance).sum())

    assert error(ggml.quantize(values, kind, importance)) < 0.8 * error(ggml.quantize(values, kind))


def test_without_the_library_k_quants_are_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ggml.importlib.util, "find_spec", lambda _: None)
    ggml._library.cache_clear()
    with pytest.raises(UserError, match="xllamacpp, which is not installed; pip install"):
        ggml.require()
    monkeypatch.undo()
    monkeypatch.setattr(ggml.ctypes, "CDLL", lambda _: SimpleNamespace())
    with pytest.raises(UserError, match="does not export ggml_quantize_chunk"):
        ggml.require()
    monkeypatch.undo()
    ggml.require()
