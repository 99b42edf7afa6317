"""ggml's own quantizers, for the types that gguf-py only reads: the K-quants.

xllamacpp's library holds all of llama.cpp and exports `ggml_quantize_chunk`; it is called through ctypes, so a file's
bytes are those that llama.cpp's quantizer makes, not an imitation of them. The symbol is part of ggml's public header
(ggml.h) but not of xllamacpp's interface: where it is missing, the types that need it are refused, the others work.

Shapes: O rows, I numbers of a row.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as TensorType

from slm.core.errors import UserError

if TYPE_CHECKING:
    import numpy.typing as npt

NEEDS_GGML = (TensorType.Q4_K, TensorType.Q5_K, TensorType.Q6_K)
"""Types that gguf-py does not write."""


def quantize(
    values_OI: npt.NDArray[np.float32], kind: TensorType, importance_I: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.uint8]:
    """A matrix as the bytes of `kind`, one row of bytes a row.

    `importance_I` is how much an error in each column matters (llama.cpp's importance matrix: mean squares of inputs).
    """
    if importance_I is None and kind not in NEEDS_GGML:
        with np.errstate(over="ignore", invalid="ignore"):  # of blocks so small that their scale is 0, as they become
            plain: npt.NDArray[np.uint8] = gguf.quants.quantize(values_OI, kind)
        return plain
    values_OI = np.ascontiguousarray(values_OI, dtype=np.float32)
    rows, columns = values_OI.shape
    stored = np.empty(gguf.quant_shape_to_byte_shape(values_OI.shape, kind), dtype=np.uint8)
    weights = None
    if importance_I is not None:
        weights = np.ascontiguousarray(importance_I, dtype=np.float32).ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    written = _library().ggml_quantize_chunk(
        int(kind), values_OI.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), stored.ctypes.data_as(ctypes.c_void_p),
        0, rows, columns, weights,
    )  # fmt: skip
    if written != stored.nbytes:
        raise RuntimeError(f"ggml wrote {written:,} bytes of {kind.name} instead of {stored.nbytes:,}")
    return stored


def require() -> None:
    """Refuse where ggml's quantizers cannot be called."""
    _library()


@functools.cache
def _library() -> Any:
    package = importlib.util.find_spec("xllamacpp.xllamacpp")
    if package is None or package.origin is None:
        raise UserError(
            "K-quants are made by llama.cpp's own code in the package xllamacpp, which is not installed; pip install "
            "xllamacpp, or leave gguf_q4_k_m, gguf_q5_k_m and gguf_q6_k out of export.formats"
        )
    library = ctypes.CDLL(package.origin)
    if not hasattr(library, "ggml_quantize_chunk"):
        raise UserError(
            f"{package.origin} does not export ggml_quantize_chunk, which K-quants need; install the version of "
            "xllamacpp in requirements.lock, or leave gguf_q4_k_m, gguf_q5_k_m and gguf_q6_k out of export.formats"
        )
    function = library.ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    floats = ctypes.POINTER(ctypes.c_float)
    function.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, *[ctypes.c_int64] * 3, floats]
    return library
