"""A compressed model on disk, and back into one that computes in float32.

A folder holds `model_config.json`, `quantization.json` and safetensors. A matrix NAME on a grid is three tensors:
`NAME.values` (uint8; up to 4 bits two to a byte, even columns low), `NAME.scales` (float16) and `NAME.zeros` (uint8);
its grid stands in `quantization.json`. All other tensors are as they are in a checkpoint. Reading checks every shape
and name, as `slm.model.load` does, and gives exactly the numbers that were measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from slm.compress.layers import Gain
from slm.core.artifact import seal_file
from slm.core.errors import DamagedError
from slm.model.block import Block
from slm.model.integers import Grid, Integers, pack, unpack
from slm.model.load import load_tensors, model_from, read_config, read_json, read_safetensors
from slm.model.transformer import Transformer

if TYPE_CHECKING:
    from slm.serve.config import ServeConfig
    from slm.serve.engine import Backend

QUANTIZATION = "quantization.json"
BLOCK = "block.safetensors"
FACTS = "block.json"
PARTS = ("values", "scales", "zeros")


def write_block(folder: Path, block: Block, integers: Mapping[str, Integers], gains: Mapping[str, Gain]) -> None:
    """Write one block's integers, what else it holds, and what scaling gained."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in block.state_dict().items():
        matrix = name.removesuffix(".weight")
        tensors.update(parts(name, integers[matrix]) if matrix in integers else {name: tensor.contiguous()})
    facts = {
        "grids": {f"{name}.weight": asdict(found.grid) for name, found in integers.items()},
        "gains": {name: asdict(gain) for name, gain in gains.items()},
    }
    save_file(tensors, folder / BLOCK)
    (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    for file in (BLOCK, FACTS):
        seal_file(folder / file)


def parts(name: str, found: Integers) -> dict[str, Tensor]:
    """The tensors that stand for a matrix."""
    values = pack(found.values_OI, found.grid.bits).contiguous()
    return {f"{name}.values": values, f"{name}.scales": found.scales_OG, f"{name}.zeros": found.zeros_OG}


def read_block(folder: Path, layer: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a block under the model's names, and its facts."""
    prefix = f"blocks.{layer}."
    facts = read_json(folder / FACTS)
    facts["grids"] = {prefix + name: grid for name, grid in facts["grids"].items()}
    return {prefix + name: tensor for name, tensor in read_safetensors(folder / BLOCK).items()}, facts


def open_variant(folder: Path, tokenizer: str, config: ServeConfig) -> Backend:
    """The model that a folder stands for, answering; `tokenizer` is the folder of its tokenizer."""
    from slm.serve.torch_backend import TorchBackend
    from slm.serve.vocabulary import open_vocabulary

    return TorchBackend(load_compressed(folder), open_vocabulary(Path(tokenizer)), config)


def load_compressed(folder: Path) -> Transformer:
    """The model that a folder stands for, its matrices dequantized to float32."""
    config = read_config(folder).model_copy(update={"attention": "sdpa"})
    integers, plain = read_integers(folder)
    state = {**plain, **{name: found.dequantize() for name, found in integers.items()}}
    return model_from(config, {name: tensor.float() for name, tensor in state.items()}, folder)


def read_integers(folder: Path) -> tuple[dict[str, Integers], dict[str, Tensor]]:
    """The matrices on grids and the other tensors of a folder, each under its name in the model."""
    grids = _grids(folder / QUANTIZATION)
    tensors = load_tensors(folder)
    found: dict[str, Integers] = {}
    for name, grid in grids.items():
        missing = [part for part in PARTS if f"{name}.{part}" not in tensors]
        if missing:
            raise DamagedError(f"{folder} lacks {name}.{missing[0]}; restore it or compress again")
        values, scales_OG, zeros_OG = (tensors.pop(f"{name}.{part}") for part in PARTS)
        if values.dtype != torch.uint8 or values.dim() != 2:
            raise DamagedError(f"{folder}: {name}.values is no matrix of bytes; restore it or compress again")
        found[name] = Integers(unpack(values, grid.bits), scales_OG, zeros_OG, grid)
        _require_fit(folder, name, found[name])
    return found, tensors


def _grids(path: Path) -> dict[str, Grid]:
    try:
        grids = TypeAdapter(dict[str, Grid]).validate_python(read_json(path).get("grids"))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "grids"
        raise DamagedError(
            f"{path} describes no grids ({key}: {first['msg']}); restore it or compress again"
        ) from error
    for name, grid in grids.items():
        if not 2 <= grid.bits <= 8 or grid.group_size < 0:
            raise DamagedError(f"{path} describes no grid for {name} ({grid}); restore it or compress again")
    return grids


def _require_fit(folder: Path, name: str, found: Integers) -> None:
    outputs, inputs = found.values_OI.shape
    expected = (outputs, found.grid.groups(inputs))
    kinds = (found.scales_OG.dtype, found.zeros_OG.dtype)
    fits = tuple(found.scales_OG.shape) == expected == tuple(found.zeros_OG.shape)
    if not fits or kinds != (torch.float16, torch.uint8):
        raise DamagedError(
            f"{folder}: the scales and zero points of {name} do not fit its grid ({list(found.scales_OG.shape)} for "
            f"{outputs:,} rows in {expected[1]:,} groups); restore it or compress again"
        )
