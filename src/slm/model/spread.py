"""A model that fits no one device: its layers over GPUs, the computer's memory and the disk, by Accelerate.

In: a checkpoint's folder and how much of each device may be taken. Out: a model that computes as the whole one does,
but only forwards, without gradients: Accelerate reads the layers to their places, and its hooks bring each offloaded
layer's weights to the device that computes (the first one named) when its turn comes and drop them after it. These are
the two steps of its `load_checkpoint_and_dispatch`, which by itself would pick that device at random among several.
Embedding, last norm and head stay on it, since the head is multiplied with in chunks outside of the model. Layers for
the disk are copied into a temporary folder, which goes with the model.

Cost: what is offloaded is read anew for each forward, so large batches suit it. Each process has layers of its own.
Run so far on a CPU alone, also in a GPU's stead (tested); never on a GPU.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path

import torch

from slm.core.errors import UserError
from slm.model.load import INDEX, read_config
from slm.model.transformer import Transformer

CPU, DISK = "cpu", "disk"
Device = int | str
"""The number of a GPU, `cpu` or `disk`."""


def load_spread(folder: Path, memory_bytes: Mapping[str, int]) -> Transformer:
    """The model in `folder`, over the devices of `memory_bytes` in this order; what exceeds them goes to the disk."""
    try:
        from accelerate import dispatch_model, load_checkpoint_in_model
    except ImportError as error:
        raise UserError(
            "a model spread over devices needs accelerate, which is not installed; pip install 'slm[spread]'"
        ) from error
    with torch.device("meta"):
        model = Transformer(read_config(folder).model_copy(update={"attention": "sdpa"}))
    places = device_map(model, memory_bytes)
    offloaded = tempfile.mkdtemp(prefix="slm-spread-")
    weakref.finalize(model, shutil.rmtree, offloaded, ignore_errors=True)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars, and a warning that layers are offloaded
        load_checkpoint_in_model(model, str(folder / INDEX), places, offload_folder=offloaded, strict=True)
        dispatch_model(model, places, main_device=places["embedding"], offload_dir=offloaded)
    return model.eval().requires_grad_(False)


def device_map(model: Transformer, memory_bytes: Mapping[str, int]) -> dict[str, Device]:
    """Where each part lies: the ends of the model on the first device, layers one after the other where there is room.

    `UserError` for a device that is not there or too small for the ends.
    """
    devices = [_device(name) for name in memory_bytes]
    main, room = devices[0], [*memory_bytes.values()]
    ends = [name for name, _ in model.named_children() if name != "blocks"]
    room[0] -= sum(_bytes(model.get_submodule(name)) for name in ends)
    layer_bytes = _bytes(model.blocks[0])
    if main != CPU:
        room[0] -= layer_bytes  # an offloaded layer comes here when its turn has come
    if room[0] < 0:
        raise UserError(
            f"{next(iter(memory_bytes))} is given {next(iter(memory_bytes.values())):,} bytes, but embedding, head and "
            f"what is computed there take {next(iter(memory_bytes.values())) - room[0]:,}; give it more"
        )
    places: dict[str, Device] = dict.fromkeys(ends, main)
    number = 0
    for layer in range(len(model.blocks)):
        while number < len(devices) and room[number] < layer_bytes:
            number += 1
        places[f"blocks.{layer}"] = devices[number] if number < len(devices) else DISK
        if number < len(devices):
            room[number] -= layer_bytes
    return places


def _device(name: str) -> Device:
    if name == CPU:
        return CPU
    if not name.isdigit() or int(name) >= torch.cuda.device_count():
        raise UserError(
            f"{name!r} is no device here: name GPUs by number (there are {torch.cuda.device_count()}), or {CPU}"
        )
    return int(name)


def _bytes(module: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
