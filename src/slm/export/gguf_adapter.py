"""A LoRA adapter as a GGUF file, which llama.cpp puts beside any GGUF file of its base (`--lora`).

In: an adapter and the shape of its base. Out: one file with `NAME.lora_a` [R, I] and `NAME.lora_b` [O, R] in F32 under
llama.cpp's names, and the metadata that it asks for (general.type adapter, adapter.type lora, adapter.lora.alpha, and
the base's architecture, which it compares). Rows of q and k alternate between the halves of a head, as the base's do;
they are rows of B. The keys and layouts are those of llama.cpp's convert_lora_to_gguf.py.

What it does not do: DoRA, which llama.cpp has not; merge such an adapter and export the model.
"""

from __future__ import annotations

import math
from pathlib import Path

import gguf
import numpy as np

from slm import __version__
from slm.core.errors import DamagedError, UserError
from slm.export.gguf import architecture, gguf_name, interleave
from slm.model.config import ModelConfig
from slm.model.lora import Adapter


def write_adapter(adapter: Adapter, config: ModelConfig, path: Path) -> None:
    """Write the file and read it back; `config` is the base's shape."""
    lora = adapter.config
    if lora.dora:
        raise UserError("an adapter with dora cannot go into a GGUF file; merge it into its base and export the model")
    writer = gguf.GGUFWriter(path, architecture(config))
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # llama.cpp divides by the rank, so the scale of rslora is put into alpha.
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, lora.alpha * (math.sqrt(lora.rank) if lora.rslora else 1))
    writer.add_string("slm.version", __version__)
    writer.add_string("slm.base", adapter.base)
    entries = {}
    for name, parts in adapter.tensors.items():
        b_OR = parts["b"].float()
        if not config.qk_norm and name.endswith(("attention.q", "attention.k")):
            b_OR = interleave(b_OR, config.head_dim)
        theirs = gguf_name(f"{name}.weight")
        entries[f"{theirs}.lora_a"] = np.ascontiguousarray(parts["a"].float().cpu().numpy())
        entries[f"{theirs}.lora_b"] = np.ascontiguousarray(b_OR.cpu().numpy())
    for name, values in entries.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name, values in entries.items():
        if name not in found or not np.array_equal(found[name].data.reshape(values.shape), values):
            raise DamagedError(f"{path.name}: {name} read back is not what was written; check the disk and write again")
