"""The blocks of a working folder, the embedding and the head put together to one folder of integers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from slm.compress.config import Variant
from slm.compress.files import QUANTIZATION, parts, read_block
from slm.compress.stream import StoredModel, block_folder
from slm.model.integers import outside_grid, quantize
from slm.model.load import CONFIG, save_tensors

OUTSIDE_MATRICES = ("embedding.weight", "head.weight")


def assemble(model: StoredModel, variant: Variant, work: Path, folder: Path) -> None:
    """Write the variant whose blocks lie in `work` into `folder`."""
    folder.mkdir(parents=True)
    tensors: dict[str, Tensor] = {}
    grids: dict[str, Any] = {}
    gains: dict[str, Any] = {}
    for name in model.outside:
        tensor = model.tensor(name)
        if name not in OUTSIDE_MATRICES or variant.outside_bits == 32 or variant.method == "scale":
            tensors[name] = tensor
        elif variant.outside_bits == 16:
            tensors[name] = tensor.half()
        else:
            grid = outside_grid(variant.outside_bits, tensor.shape[1])
            tensors.update(parts(name, quantize(tensor, grid)))
            grids[name] = asdict(grid)
    for layer in range(model.config.layers):
        of_block, facts = read_block(block_folder(work, layer), layer)
        tensors.update(of_block)
        grids.update(facts["grids"])
        gains[f"blocks.{layer}"] = facts["gains"]
    save_tensors(tensors, folder)
    (folder / CONFIG).write_text(json.dumps(model.config.resolved(), indent=1), encoding="utf-8")
    described = {"method": variant.method, "grids": grids, "gains": gains}
    (folder / QUANTIZATION).write_text(json.dumps(described, indent=1), encoding="utf-8")
