"""GGUF files for llama.cpp: F32 to Q4_0 and the K-quants, complete metadata, each read back after writing.

In: a model and a tokenizer. Out: `model-<type>.gguf` of architecture `llama`, or `qwen3` with QK-norm.
Matrices have the file's type; vectors stay F32, as in llama.cpp's own converter. The `llama` architecture
rotates neighbouring entries of a head where our model rotates halves, so the rows of q and k are permuted;
`qwen3` rotates halves too. Llama 3's stretched positions travel as the tensor `rope_freqs`.

Which type each tensor has is `slm.export.gguf_types`' business, the K-quants' bytes are ggml's own. Numbers beyond F16
are refused. Tensors are converted and written one at a time, so the peak is the model and one matrix. Reading back
dequantizes every tensor and costs about 1 s per GB.

With the importance of columns (`slm.export.importance`) the quantized types weigh their error by it, as llama.cpp's
quantizer does with an importance matrix.

A model larger than `export.max_gguf_bytes` goes into parts of
at most so many bytes of tensors (or one tensor), named and numbered as llama.cpp's gguf-split does it.

What it does not do: sliding windows (neither architecture has them in llama.cpp),
Llama 3's positions in `qwen3` (llama.cpp reads no `rope_freqs` there).
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as TensorType
from torch import Tensor

from slm.core.errors import DamagedError, UserError
from slm.core.model_files import gguf_model, parts_of
from slm.export import ggml
from slm.export.gguf_types import KINDS, LOSSLESS, Kind, Model, is_fallback, rounding, stored_type
from slm.export.importance import Importance, add_importance
from slm.export.metadata import add_metadata
from slm.export.subject import Engine, Quantity, Subject, Written
from slm.model.config import ModelConfig
from slm.model.load import expected_shapes
from slm.model.rope import frequencies
from slm.serve.gguf_file import read_gguf
from slm.serve.llama_cpp import LlamaCpp
from slm.serve.llama_scores import LlamaScores

if TYPE_CHECKING:
    import numpy.typing as npt

SMALL_MODEL_BYTES = 200_000_000

_OUTSIDE = {
    "embedding.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "head.weight": "output.weight",
}
_IN_BLOCK = {
    "attention_norm": "attn_norm",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.o": "attn_output",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "ffn_norm": "ffn_norm",
    "ffn.gate": "ffn_gate",
    "ffn.up": "ffn_up",
    "ffn.down": "ffn_down",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the file: where its numbers come from and the type they are stored in."""

    name: str
    source: str
    tensor: Tensor
    type: TensorType
    is_fallback: bool = False
    """Whether it could not have the type that the file type wants for it."""
    interleaved_head_dim: int = 0
    """Of q and k in `llama`: the rows of each head of this size alternate between its halves."""
    importance_I: npt.NDArray[np.float32] | None = None
    """How much an error in each column matters, where it is known and the type can heed it."""

    def values(self) -> npt.NDArray[np.float32]:
        tensor = self.tensor.detach().float().cpu()
        if self.interleaved_head_dim:
            tensor = interleave(tensor, self.interleaved_head_dim)
        return np.ascontiguousarray(tensor.numpy())


def write(subject: Subject, folder: Path, name: str) -> Written:
    """Write `model-<type>.gguf`, read it back, and return its path with a notice for every exception."""
    config, kind = subject.model.config, KINDS[name]
    entries = list(plan(subject.model.state_dict(), config, kind, subject.importance))
    if any(entry.type in ggml.NEEDS_GGML or entry.importance_I is not None for entry in entries):
        ggml.require()
    path = folder / f"model-{name.removeprefix('gguf_')}.gguf"
    most = subject.max_gguf_bytes if sum(map(_num_bytes, entries)) > subject.max_gguf_bytes else 0
    writer = gguf.GGUFWriter(path, architecture(config), split_max_size=most)
    add_metadata(writer, subject, kind.file, sum(entry.tensor.numel() for entry in entries))
    if subject.importance is not None and kind.tensors not in LOSSLESS:
        add_importance(writer, subject.importance)
    for entry in entries:
        shape = tuple(entry.tensor.shape)
        writer.add_tensor_info(entry.name, shape, np.dtype(np.float32), _num_bytes(entry), raw_dtype=entry.type)
    with _disk_full_named(path), contextlib.closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in entries:
            writer.write_tensor_data(encode(entry))
    path = gguf_model(folder, path.stem.removeprefix("model-"))
    read_back(path, entries)
    return Written(path, tuple(_fallback_notices(name, entries)))


def _num_bytes(entry: Entry) -> int:
    return int(np.prod(gguf.quant_shape_to_byte_shape(tuple(entry.tensor.shape), entry.type)))


def architecture(config: ModelConfig) -> str:
    """llama.cpp's name for what the model computes."""
    return "qwen3" if config.qk_norm else "llama"


def refuse_unsupported(config: ModelConfig) -> None:
    """Refuse a model that llama.cpp would run differently."""
    if 0 < config.sliding_window < config.max_seq_len:
        raise UserError(
            f"model.sliding_window ({config.sliding_window:,}) cannot go into a GGUF file, because llama.cpp's "
            f"{architecture(config)} attends to all {config.max_seq_len:,} tokens; export.formats=[hf] keeps the window"
        )
    if config.qk_norm and config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        raise UserError(
            "model.rope_scaling.kind (llama3) cannot go into a GGUF file with model.qk_norm=true, because llama.cpp's "
            "qwen3 has no such positions; train with kind linear, or export.formats=[hf]"
        )


def plan(
    state: Mapping[str, Tensor], config: ModelConfig, kind: Kind, importance: Importance | None = None
) -> Iterator[Entry]:
    """Every tensor of the file, in order, under llama.cpp's name; a tensor without one is an error."""
    model = Model(config.layers, config.tie_embeddings, importance is not None)
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        plain_F = frequencies(config.model_copy(update={"rope_scaling": None}))
        yield Entry("rope_freqs.weight", "model.rope_scaling", plain_F / frequencies(config), TensorType.F32)
    for source, tensor in state.items():
        turned = not config.qk_norm and source.endswith(("attention.q.weight", "attention.k.weight"))
        facts = gguf_name(source), tuple(tensor.shape), kind, model
        stored = stored_type(*facts)
        weights_I = importance.of(source) if importance is not None and stored not in LOSSLESS else None
        turned_dim = config.head_dim if turned else 0
        yield Entry(facts[0], source, tensor, stored, is_fallback(*facts), turned_dim, weights_I)


def gguf_name(name: str) -> str:
    """llama.cpp's name of one of our tensors."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", name)
    if match is None or match[2] not in _IN_BLOCK:
        raise UserError(
            f"tensor {name} has no counterpart in llama.cpp's llama or qwen3; export.formats=[hf] may have one"
        )
    return f"blk.{match[1]}.{_IN_BLOCK[match[2]]}.weight"


def interleave(weight_RD: Tensor, head_dim: int) -> Tensor:
    """Rows of q or k reordered so that the halves of each head alternate: 0, d/2, 1, d/2 + 1, ..."""
    rows, width = weight_RD.shape
    halves = weight_RD.reshape(rows // head_dim, 2, head_dim // 2, width)
    return halves.transpose(1, 2).reshape(rows, width)


def encode(entry: Entry) -> npt.NDArray[Any]:
    """The bytes or numbers to store; refuses what is not finite or lies beyond F16."""
    values = entry.values()
    if not np.isfinite(values).all():
        raise DamagedError(
            f"{entry.source} holds NaN or infinity, so every answer would be NaN; export an earlier checkpoint"
        )
    if entry.type == TensorType.F32:
        return values
    if entry.type == TensorType.F16:
        largest = float(np.abs(values).max())
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.isfinite(halves).all():
            raise UserError(
                f"{entry.source} holds {largest:,.0f}, but F16 ends at 65,504; leave gguf_f16 out of export.formats "
                "and take gguf_bf16, which has the range of F32"
            )
        return halves
    if entry.type == TensorType.BF16:
        brain: npt.NDArray[Any] = gguf.quants.quantize(values, entry.type)
        return brain
    return ggml.quantize(values, entry.type, entry.importance_I)


def read_back(path: Path, entries: Sequence[Entry]) -> None:
    """Open a finished file and compare every tensor with its source, within the type's own rounding."""
    found = read_gguf(path).tensors
    if list(found) != [entry.name for entry in entries]:
        differing = sorted(set(found) ^ {entry.name for entry in entries})
        raise DamagedError(
            f"{path.name} does not hold what was written ({', '.join(differing) or 'order'}); export again"
        )
    for entry in entries:
        stored = found[entry.name]
        values = entry.values()
        if stored.type != entry.type or stored.shape != values.shape:
            raise DamagedError(f"{path.name}: {entry.name} has another type or shape than was written; export again")
        data = stored.data()
        if entry.type not in LOSSLESS and not np.array_equal(data, encode(entry)):
            raise DamagedError(
                f"{path.name}: {entry.name} read back differs from {entry.source} as it was written; check the disk "
                "and export again"
            )
        if entry.importance_I is not None:
            continue  # columns that hardly matter may be off by more than their type rounds
        decoded = gguf.quants.dequantize(data, stored.type).reshape(values.shape)
        excess = np.abs(decoded - values) - rounding(values, entry.type)
        if not (excess <= 0).all():
            raise DamagedError(
                f"{path.name}: {entry.name} read back differs from {entry.source} by more than {entry.type.name} "
                f"rounds ({float(excess.max()):.3g} too much); check the disk and export again"
            )


def dequantized(path: Path, config: ModelConfig) -> dict[str, npt.NDArray[np.float32]]:
    """The numbers that a file stands for, under our names and in our order of rows."""
    stored, found = read_gguf(path).tensors, dict[str, "npt.NDArray[np.float32]"]()
    for source, shape in expected_shapes(config, stored, path).items():
        tensor = stored.get(gguf_name(source))
        if tensor is None or tensor.shape != shape:
            raise DamagedError(f"{path} holds no {gguf_name(source)} of shape {list(shape)}; export it again")
        values = gguf.quants.dequantize(tensor.data(), tensor.type).reshape(shape)
        if not config.qk_norm and source.endswith(("attention.q.weight", "attention.k.weight")):
            pairs = values.reshape(-1, config.head_dim // 2, 2, shape[1])
            values = pairs.swapaxes(1, 2).reshape(shape)
        found[source] = values
    return found


@contextlib.contextmanager
def engine(written: Path, *, end_ids: frozenset[int], context_tokens: int, threads: int) -> Iterator[Engine]:
    """llama.cpp with the file, computing in F32 where the file leaves the choice.

    It stops at the file's own end tokens, so `end_ids` is not told to it but proved. Small models get one
    thread: with two on a busy machine, waiting for each other took 87 ms a request instead of 7.
    """
    del end_ids
    if sum(part.stat().st_size for part in parts_of(written)) < SMALL_MODEL_BYTES:
        threads = 1
    with (
        LlamaCpp(written, context_tokens=context_tokens, exact=True, threads=threads) as llama,
        contextlib.ExitStack() as opened,
    ):
        yield LlamaEngine(llama, opened, threads)


class LlamaEngine:
    """llama.cpp as the parity proof sees it.

    It writes spaces as U+2581 inside and so takes a U+2581 in a text for a space.
    """

    quantity: Quantity = "log-probabilities"
    misread = "\u2581"

    def __init__(self, llama: LlamaCpp, opened: contextlib.ExitStack, threads: int) -> None:
        self._llama, self._opened, self._threads = llama, opened, threads
        self._whole: LlamaScores | None = None

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, start token included."""
        return self._llama.tokenize(text, bos=True)

    def scores(self, ids: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float64]:
        """Log-probabilities [positions, V], one request per position (2 ms at 300 entries)."""
        return np.stack([self._llama.logprobs(ids[: position + 1]) for position in positions])

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits [T, V] by llama.cpp's own settings: a cache in F16, flash attention where it has it."""
        if self._whole is None:
            self._whole = self._opened.enter_context(LlamaScores(self._llama.path, self._threads))
        return self._whole.logits(ids)

    def greedy(self, ids: Sequence[int], max_tokens: int) -> list[int]:
        """The greedy continuation, up to and with a token that ends a text."""
        return self._llama.greedy(ids, max_tokens)


@contextlib.contextmanager
def _disk_full_named(path: Path) -> Iterator[None]:
    """numpy reports a short write without the system's error number; a full disk is the cause that gives none."""
    try:
        yield
    except OSError as error:
        if error.errno is None and re.search(r"\d+ requested and \d+ written", str(error)):
            raise OSError(errno.ENOSPC, "No space left on device", str(path)) from error
        raise


def _fallback_notices(name: str, entries: Sequence[Entry]) -> Iterator[str]:
    by_type: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.is_fallback:
            by_type.setdefault(entry.type.name, []).append(entry)
    for stored, found in by_type.items():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        yield (
            f"{name}: {found[0].source}{more}, with rows of {found[0].tensor.shape[-1]:,}, do not fall into its blocks "
            f"and are stored as {stored}"
        )
