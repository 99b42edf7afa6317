"""Which type each tensor of a GGUF file has: llama.cpp's rules for its file types, and how far each type rounds.

A file type such as Q4_K_M names a type for most matrices and better ones for a few. Here are the rules of llama.cpp's
quantizer (src/llama-quant.cpp) for the architectures that we write: the head (the embedding where it is tied) has 6
bits; of `attn_v` and `ffn_down` the first and last eighth of the layers and every third between have 6 bits in Q4_K_M
and Q5_K_M. K-quants cut rows into blocks of 256; a matrix whose rows are no multiple gets the type that llama.cpp falls
back to, one whose rows are no multiple of 32 F16, and it is said. Vectors stay F32. With an importance matrix, Q4_0 and
Q5_0 give `ffn_down` of the first eighth of the layers a zero point (Q4_1, Q5_1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import gguf
import numpy as np
from gguf import GGMLQuantizationType as TensorType
from gguf import LlamaFileType as FileType

if TYPE_CHECKING:
    import numpy.typing as npt

BLOCK = 32
"""Numbers that share a scale in Q8_0, Q5_0 and Q4_0."""
K_BLOCK = 256
"""Numbers of a K-quant's block."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A file type: the type of most matrices, llama.cpp's number for it, and whether some matrices get better ones."""

    tensors: TensorType
    file: FileType
    mixed: bool = False


KINDS = {
    "gguf_f32": Kind(TensorType.F32, FileType.ALL_F32),
    "gguf_f16": Kind(TensorType.F16, FileType.MOSTLY_F16),
    "gguf_bf16": Kind(TensorType.BF16, FileType.MOSTLY_BF16),
    "gguf_q8_0": Kind(TensorType.Q8_0, FileType.MOSTLY_Q8_0),
    "gguf_q6_k": Kind(TensorType.Q6_K, FileType.MOSTLY_Q6_K),
    "gguf_q5_k_m": Kind(TensorType.Q5_K, FileType.MOSTLY_Q5_K_M, mixed=True),
    "gguf_q5_0": Kind(TensorType.Q5_0, FileType.MOSTLY_Q5_0),
    "gguf_q4_k_m": Kind(TensorType.Q4_K, FileType.MOSTLY_Q4_K_M, mixed=True),
    "gguf_q4_0": Kind(TensorType.Q4_0, FileType.MOSTLY_Q4_0),
}
LOSSLESS = (TensorType.F32, TensorType.F16, TensorType.BF16)
FALLBACKS = {TensorType.Q4_K: TensorType.Q5_0, TensorType.Q5_K: TensorType.Q5_1, TensorType.Q6_K: TensorType.Q8_0}
GUARDED = {TensorType.Q4_0: TensorType.Q4_1, TensorType.Q5_0: TensorType.Q5_1}
"""What `ffn_down` of the first eighth of the layers gets where an importance matrix weighs the error."""
STEPS = {
    TensorType.Q8_0: 127, TensorType.Q6_K: 31, TensorType.Q5_K: 15, TensorType.Q5_1: 15, TensorType.Q5_0: 15,
    TensorType.Q4_K: 7, TensorType.Q4_1: 7, TensorType.Q4_0: 7,
}  # fmt: skip
"""Steps from 0 to the largest number of a block, roughly: what a rounding error is measured by."""


@dataclass(frozen=True, slots=True)
class Model:
    """What llama.cpp's rules ask about a model."""

    layers: int
    tied: bool
    weighed: bool = False
    """Whether it is quantized by an importance matrix."""


def stored_type(name: str, shape: tuple[int, ...], kind: Kind, model: Model) -> TensorType:
    """The type of a tensor, called by llama.cpp's name, in a file of `kind`."""
    if len(shape) == 1:
        return TensorType.F32
    if kind.tensors in LOSSLESS:
        return kind.tensors
    return _fitting(_wanted(name, kind, model), shape[-1])


def is_fallback(name: str, shape: tuple[int, ...], kind: Kind, model: Model) -> bool:
    """Whether a matrix could not have the type that its file type wants for it."""
    if len(shape) == 1 or kind.tensors in LOSSLESS:
        return False
    return stored_type(name, shape, kind, model) != _wanted(name, kind, model)


def rounding(values: npt.NDArray[np.float32], kind: TensorType) -> npt.NDArray[np.float32]:
    """The most by which storing may change each number.

    F16 and BF16 round to the nearest of 11 and 8 significant bits (F16 has none below 2^-24). Q8_0 rounds to the
    nearest 127th of a block's largest number, and that step to 11 bits. The coarser types choose scales by search, so
    a number may be off by more than half a step of the plain grid; twice a step of their block holds for all.
    """
    size = np.abs(values)
    if kind == TensorType.F32:
        return np.zeros_like(size)
    if kind == TensorType.F16:
        return np.maximum(size * np.float32(2**-11), np.float32(2**-25))
    if kind == TensorType.BF16:
        return np.maximum(size * np.float32(2**-8), np.float32(2**-133))
    block = gguf.GGML_QUANT_SIZES[kind][0]
    largest = size.reshape(-1, block).max(axis=1, keepdims=True)
    step = largest / np.float32(STEPS[kind])
    if kind == TensorType.Q8_0:
        bound = step * np.float32(0.5 + 127 * 2**-11 + 1e-4) + np.float32(127 * 2**-25)
    else:
        bound = step * np.float32(2) + np.float32(2**-20)
    return np.broadcast_to(bound, (bound.shape[0], block)).reshape(values.shape)


def _wanted(name: str, kind: Kind, model: Model) -> TensorType:
    if kind.tensors != TensorType.Q8_0 and name == ("token_embd.weight" if model.tied else "output.weight"):
        return TensorType.Q6_K
    eighth = model.layers // 8
    if kind.mixed and name.endswith(("attn_v.weight", "ffn_down.weight")):
        layer = int(name.split(".")[1])
        if layer < eighth or layer >= 7 * model.layers // 8 or (layer - eighth) % 3 == 2:
            return TensorType.Q6_K
    if model.weighed and name.endswith("ffn_down.weight") and int(name.split(".")[1]) < eighth:
        return GUARDED.get(kind.tensors, kind.tensors)
    return kind.tensors


def _fitting(wanted: TensorType, columns: int) -> TensorType:
    if wanted in FALLBACKS and columns % K_BLOCK:
        wanted = FALLBACKS[wanted]
    return TensorType.F16 if columns % BLOCK else wanted
