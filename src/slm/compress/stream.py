"""Block after block through the model: observe its inputs, compress it, hand on what the compressed block computes.

In: a checkpoint's folder and calibration rows. Out: in a working folder one folder a block, `block-00000`, ..., each
put there whole, from which a killed run goes on: a block that is there is not made again. Beside its integers the last
one holds the residual stream of all rows behind it (N x T x D x 4 bytes: 805 MB for 65,536 tokens of width 3,072). In
memory are the stream, one block, its four Gram matrices, and the embedding while it is read.

A block is calibrated on what the compressed blocks before it compute, as GPTQ's authors do, so that it makes up for
their error where it can. Plain rounding needs no text, and then nothing is run at all.

Shapes: N rows, T tokens of a row, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from slm.compress.calibration import Rows
from slm.compress.config import Calibration, CompressConfig, Variant
from slm.compress.files import write_block
from slm.compress.layers import INPUTS, MATRICES, compress_block
from slm.compress.statistics import InputStatistics
from slm.core.artifact import placed, seal_file
from slm.core.errors import DamagedError, UserError
from slm.model.attention import plan
from slm.model.backends import multiplies_bf16
from slm.model.block import Block
from slm.model.config import ModelConfig
from slm.model.integers import Grid, grid_for
from slm.model.load import expected_shapes, read_config, read_tensor, tensor_places
from slm.model.rope import RotaryTables

STREAM = "stream.safetensors"


class StoredModel:
    """A checkpoint whose tensors are read when they are needed, in float32."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: ModelConfig = read_config(folder).model_copy(update={"attention": "sdpa"})
        self._places = tensor_places(folder)
        self._shapes = expected_shapes(self.config, self._places, folder)
        differing = sorted(set(self._places) ^ set(self._shapes))
        if differing:
            raise DamagedError(
                f"{folder} and its configuration disagree about {', '.join(differing[:3])}; restore the folder or "
                "save the model again"
            )

    def tensor(self, name: str) -> Tensor:
        """One tensor; `DamagedError` for a wrong shape or numbers that are none."""
        tensor = read_tensor(self._places[name], name)
        if tuple(tensor.shape) != self._shapes[name]:
            raise DamagedError(
                f"{self.folder}: {name} has shape {list(tensor.shape)}, but the configuration asks for "
                f"{list(self._shapes[name])}; correct the configuration or save the model again"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise DamagedError(
                f"{self.folder}: {name} holds NaN or infinity, so every answer would be NaN; go back to an earlier "
                "checkpoint"
            )
        return tensor.float()

    def block(self, layer: int) -> Block:
        """One block, without gradients."""
        with torch.device("meta"):
            block = Block(self.config, layer)
        state = {name: self.tensor(f"blocks.{layer}.{name}") for name in block.state_dict()}
        block.load_state_dict(state, assign=True)
        return block.requires_grad_(requires_grad=False)

    @property
    def outside(self) -> list[str]:
        """The tensors of no block."""
        return [name for name in self._shapes if not name.startswith("blocks.")]


def compress_blocks(
    model: StoredModel,
    rows: Rows | None,
    variant: Variant,
    config: CompressConfig,
    work: Path,
    done: Callable[[int], None],
) -> list[str]:
    """Make every block's file in `work`; returns notices. `done` is told each layer that is there."""
    grids = {name: _grid(model, name, variant, config) for name in MATRICES if variant.rounds}
    layers, device = model.config.layers, device_for(config)
    made = next((layer for layer in range(layers) if not block_folder(work, layer).is_dir()), layers)
    stream = _Stream(model, rows, config.calibration, made, work, device) if rows is not None else None
    for layer in range(made):
        done(layer)
    for layer in range(made, layers):
        block = model.block(layer).to(device)
        statistics = stream.observe(block) if stream is not None else {}
        integers, gains = compress_block(block, statistics, variant, grids)
        with placed(block_folder(work, layer)) as folder:
            write_block(folder, block, integers, gains)
            if stream is not None:
                stream.advance(block, folder)
        if layer:
            (block_folder(work, layer - 1) / STREAM).unlink(missing_ok=True)
        done(layer)
    return [
        f"{variant.name}: {name} has rows of {_inputs(model, name):,}, so its groups are of {grid.group_size} instead "
        f"of {variant.group_size}"
        for name, grid in grids.items()
        if grid.group_size != variant.group_size
    ]


def device_for(config: CompressConfig) -> str:
    """Where `compress.device` says to compute."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("compress.device is cuda, but torch sees no GPU here; set compress.device=cpu or auto")
    return "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"


def block_folder(work: Path, layer: int) -> Path:
    """Where a block's integers lie."""
    return work / f"block-{layer:05d}"


class _Stream:
    """The residual stream [N, T, D] before one block."""

    def __init__(
        self, model: StoredModel, rows: Rows, config: Calibration, layer: int, work: Path, device: str = "cpu"
    ) -> None:
        self._config, self._batch_rows, self._device = model.config, config.batch_rows, device
        bf16 = config.precision == "bf16" or (config.precision == "auto" and multiplies_bf16(device))
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._documents_NT, self._positions_NT = rows.documents_NT.to(device), rows.positions_NT.to(device)
        self._tables = RotaryTables(model.config)
        if layer:
            x_NTD = read_tensor(block_folder(work, layer - 1) / STREAM, "x")
        else:
            x_NTD = model.tensor("embedding.weight")[rows.tokens_NT]
        self._x_NTD = x_NTD.to(device)

    @torch.no_grad()
    def observe(self, block: Block) -> dict[str, InputStatistics]:
        """What the four inputs of the block before which the stream stands look like."""
        found = {first: InputStatistics(_linear(block, first).in_features, device=self._device) for first in INPUTS}
        for rows in self._batches():
            with _watched(block, found, self._documents_NT[rows] >= 0):
                self._through(block, rows)
        return found

    @torch.no_grad()
    def advance(self, block: Block, folder: Path) -> None:
        """Replace the stream by what the block makes of it, and keep it in `folder`."""
        for rows in self._batches():
            self._x_NTD[rows] = self._through(block, rows)
        save_file({"x": self._x_NTD.contiguous()}, folder / STREAM)
        seal_file(folder / STREAM)

    def _batches(self) -> Iterator[slice]:
        for start in range(0, len(self._x_NTD), self._batch_rows):
            yield slice(start, start + self._batch_rows)

    def _through(self, block: Block, rows: slice) -> Tensor:
        x_BTD, documents_BT = self._x_NTD[rows], self._documents_NT[rows]
        with torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32):
            how = plan(self._config, documents_BT.shape, self._dtype, x_BTD.device, documents_BT)
            rotation = self._tables.at(self._positions_NT[rows], self._config.max_seq_len, self._dtype)
            out: Tensor = block(x_BTD, rotation, how)
        return out


@contextmanager
def _watched(block: Block, found: Mapping[str, InputStatistics], text_BT: Tensor) -> Iterator[None]:
    """Add what reaches the first matrix of each input to its statistics, padding left out."""

    def adding_to(statistics: InputStatistics) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            del module
            statistics.add(inputs[0][text_BT])

        return add

    handles = [_linear(block, first).register_forward_pre_hook(adding_to(found[first])) for first in found]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _linear(block: Block, name: str) -> nn.Linear:
    found = block.get_submodule(name)
    assert isinstance(found, nn.Linear)
    return found


def _grid(model: StoredModel, name: str, variant: Variant, config: CompressConfig) -> Grid:
    wanted, setting = Grid(variant.bits, variant.group_size, variant.symmetric), f"compress.variants.{variant.name}"
    take_next = config.on_misfit == "next"
    return grid_for(wanted, _inputs(model, name), name, setting, "compress.on_misfit", take_next=take_next)


def _inputs(model: StoredModel, name: str) -> int:
    config = model.config
    return {"attention.o": config.heads * config.head_dim, "ffn.down": config.ffn_width}.get(name, config.width)
