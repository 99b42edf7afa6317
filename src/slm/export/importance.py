"""How much an error in each column of a matrix matters: llama.cpp's importance matrix, from our calibration text.

In: the model that is exported and the rows of the compress stage's calibration. Out: an `Importance`, the sum of the
squared inputs of each matrix, which ggml's quantizers take as the weights of their error (the diagonal of the Gram
matrix that AWQ and GPTQ work with), and `imatrix.gguf`, the file that llama.cpp's own tools read. The model runs once
over the text in float32, all blocks unrounded, as llama.cpp's tool does it. Of the matrices outside the blocks the head
has one; an embedding that is not the head is only looked up, so there is nothing to weigh its columns by.

Cost: one forward pass; in memory are the model and one batch. Padding is left out.

Shapes: I inputs of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
import torch
from torch import Tensor, nn

from slm.compress.calibration import Rows
from slm.compress.layers import INPUTS
from slm.model.transformer import Transformer

if TYPE_CHECKING:
    import numpy.typing as npt

FILE, SOURCE = "imatrix.gguf", "calibration"
Add = Callable[[str, Tensor], None]
"""Takes the name of a matrix and inputs [N, I] of it."""


@dataclass(frozen=True, slots=True)
class Importance:
    """Sums over the calibration text."""

    squares: dict[str, npt.NDArray[np.float32]]
    """Of the inputs [I] of each matrix, by its name in the model."""
    tokens: int
    rows: int
    hash: str
    """Of the text, as the compress stage records it."""

    def of(self, name: str) -> npt.NDArray[np.float32] | None:
        """Mean squares [I] of a matrix's inputs, rounded as llama.cpp rounds them; None of one without."""
        found = self.squares.get(name)
        return None if found is None else found / np.float32(self.tokens)


@torch.inference_mode()
def observe(model: Transformer, rows: Rows, batch_rows: int) -> Importance:
    """Run `model` over the calibration rows."""
    head = "embedding.weight" if model.head is None else "head.weight"
    sums: dict[str, Tensor] = {}

    def add(name: str, x_NI: Tensor) -> None:
        sums[name] = sums.get(name, torch.zeros(x_NI.shape[-1], dtype=torch.float64)) + x_NI.double().square().sum(0)

    for start in range(0, len(rows.tokens_NT), batch_rows):
        part = slice(start, start + batch_rows)
        text_BT = rows.documents_NT[part] >= 0
        with _watched(model, text_BT, add):
            last_BTD = model.hidden(
                rows.tokens_NT[part], positions_BT=rows.positions_NT[part], documents_BT=rows.documents_NT[part]
            )
        add(head, last_BTD[text_BT])
    squares = {name: total_I.float().numpy() for name, total_I in sums.items()}
    for layer in range(model.config.layers):
        for first, others in INPUTS.items():
            stem = f"blocks.{layer}."
            squares |= {f"{stem}{other}.weight": squares[f"{stem}{first}.weight"] for other in others}
    return Importance(squares, rows.tokens, len(rows.tokens_NT), rows.hash)


def write(importance: Importance, named: Callable[[str], str], folder: Path) -> Path:
    """Write `imatrix.gguf`; `named` gives llama.cpp's name of a matrix."""
    writer = gguf.GGUFWriter(folder / FILE, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [f"{SOURCE} {importance.hash}"])
    writer.add_uint32("imatrix.chunk_count", importance.rows)
    writer.add_uint32("imatrix.chunk_size", max(1, importance.tokens // importance.rows))
    for name, squares_I in importance.squares.items():
        writer.add_tensor(f"{named(name)}.in_sum2", squares_I[None])
        writer.add_tensor(f"{named(name)}.counts", np.full((1, 1), importance.tokens, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / FILE


def add_importance(writer: gguf.GGUFWriter, importance: Importance) -> None:
    """Say in a quantized file that its error was weighed, under llama.cpp's own keys."""
    writer.add_string("quantize.imatrix.file", FILE)
    writer.add_string("quantize.imatrix.dataset", f"{SOURCE} {importance.hash}")
    writer.add_uint32("quantize.imatrix.entries_count", len(importance.squares))
    writer.add_uint32("quantize.imatrix.chunks_count", importance.rows)


@contextmanager
def _watched(model: Transformer, text_BT: Tensor, add: Add) -> Iterator[None]:
    """Tell `add` what reaches the first matrix of each input, padding left out."""

    def adding(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: add(name, inputs[0][text_BT])

    handles = [
        block.get_submodule(first).register_forward_pre_hook(adding(f"blocks.{layer}.{first}.weight"))
        for layer, block in enumerate(model.blocks)
        for first in INPUTS
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
