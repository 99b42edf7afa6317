"""Which device and which arithmetic: `auto` is resolved here, once, and the choice is printed."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch

from slm.core.errors import UserError
from slm.train.config import TrainConfig

Precision = Literal["fp32", "bf16"]


def resolve_device(config: TrainConfig) -> str:
    """`cuda` where there is one and the recipe allows it, else `cpu`."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device is cuda, but torch sees no GPU here; set train.device=cpu or auto")
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.device


def resolve_precision(config: TrainConfig, device: str) -> Precision:
    """bf16 where the hardware multiplies it natively; emulated bf16 would be slower than fp32."""
    if config.precision != "auto":
        return config.precision
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def autocast(device: str, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast, or nothing for fp32. Weights stay fp32 in both."""
    if precision == "bf16":
        return torch.autocast(device, dtype=torch.bfloat16)
    return contextlib.nullcontext()
