"""Which device and which arithmetic: `auto` is resolved here, once; the loop prints the choice."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch

from slm.core.allocator import keep_freed_memory
from slm.core.errors import UserError
from slm.model.backends import multiplies_bf16
from slm.train.config import TrainConfig

Precision = Literal["fp32", "bf16", "bf16_weights"]


def resolve_device(config: TrainConfig) -> str:
    """`cuda` where there is one and the recipe allows it, else `cpu`."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device is cuda, but torch sees no GPU here; set train.device=cpu or auto")
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.device


def resolve_precision(config: TrainConfig, device: str) -> Precision:
    """bf16 where the hardware multiplies it natively; emulated bf16 would be slower than fp32."""
    if config.precision == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    if config.precision == "bf16_weights" and not multiplies_bf16(device):
        raise UserError(
            f"train.precision (bf16_weights) needs a device that multiplies bf16, which this {device} does not; "
            "set train.precision=fp32 or auto"
        )
    return config.precision


def prepare_device(config: TrainConfig) -> tuple[str, Precision]:
    """Device and arithmetic of this process, with torch's threads and the allocator set up for training on it."""
    device = resolve_device(config)
    precision = resolve_precision(config, device)
    if config.threads:
        torch.set_num_threads(config.threads)
    if device == "cpu":
        keep_freed_memory()
    return device, precision


def matmul_dtype(precision: Precision) -> torch.dtype:
    """The type that products and attention compute in."""
    return torch.float32 if precision == "fp32" else torch.bfloat16


def autocast(device: str, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast, or nothing for fp32. What is bf16 already, as with bf16_weights, it leaves alone."""
    if precision != "fp32":
        return torch.autocast(device, dtype=matmul_dtype(precision))
    return contextlib.nullcontext()
