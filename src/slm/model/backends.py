"""Which kernel computes attention over whole rows, and why: chosen once from recipe, device and arithmetic.

In: the model's shape, a device, the type of the products, whether gradients are wanted. Out: a `Choice`, with
the reason in words for the run's facts; or a refusal that names the way out, never a silent change of kernel.

| backend | what it is | where |
|---|---|---|
| `sdpa` | torch's SDPA; packed rows by an additive mask | everywhere; the only one that trains on a CPU |
| `flash_attn` | the flash-attn package, told where documents begin | NVIDIA, capability 8.0, 16 bit |
| `varlen` | the same kernel as it comes with torch, told the same | NVIDIA, capability 8.0, 16 bit |
| `flex` | FlexAttention, compiled with a mask by blocks | NVIDIA; on a CPU forward only |

`auto` takes the first of flash_attn and varlen that can compute here, else sdpa: kernels that skip what lies
in other documents do less work than a mask, and the package is ahead of the copy in torch. `flex` is for asking
by name: it compiles for minutes and wins only where the others cannot compute.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch

from slm.core.errors import UserError
from slm.model.config import Backend, ModelConfig

HALF_TYPES = (torch.float16, torch.bfloat16)
VARLEN_CAPABILITY = (8, 0)
"""Ampere; what the kernels behind flash_attn and varlen are written for."""
VARLEN_MAX_HEAD_DIM = 256
VARLEN_HEAD_DIM_MULTIPLE = 8
"""Limits of the same kernels on head_dim."""
FLEX_MIN_HEAD_DIM = 16
"""The smallest tile of a matrix product in Triton."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A backend and the reason for it."""

    name: Backend
    why: str

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


@dataclass(frozen=True, slots=True)
class _Case:
    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    training: bool


def choose(config: ModelConfig, device: torch.device, dtype: torch.dtype, *, training: bool) -> Choice:
    """The backend that was asked for, or with `auto` the first that can compute; refused where it cannot."""
    case = _Case(config, device, dtype, training)
    if config.attention == "auto":
        reasons = []
        for name in ("flash_attn", "varlen"):
            reason = REFUSALS[name](case)
            if not reason:
                return Choice(name, "auto: the first that can compute here")
            reasons.append(f"{name} {reason.partition(';')[0]}")
        return Choice("sdpa", f"auto: {reasons[-1]}")
    reason = REFUSALS[config.attention](case)
    if reason:
        raise UserError(f"model.attention ({config.attention}) {reason}")
    return Choice(config.attention, "as asked for")


def installed() -> bool:
    """Whether the flash-attn package can be found; it is not imported."""
    return importlib.util.find_spec("flash_attn") is not None


def _refuse_kernels(case: _Case) -> str:
    """What flash_attn and varlen, being one kernel, cannot compute."""
    head_dim = case.config.head_dim
    if case.device.type != "cuda":
        return f"needs an NVIDIA GPU, but the model is on {case.device.type}; set model.attention=sdpa"
    if case.dtype not in HALF_TYPES:
        return (
            f"computes in bfloat16 or float16, found {_name(case.dtype)}; "
            "set train.precision=bf16 or model.attention=sdpa"
        )
    found = torch.cuda.get_device_capability(case.device)
    if found < VARLEN_CAPABILITY:
        return f"needs compute capability 8.0, but this GPU has {found[0]}.{found[1]}; set model.attention=sdpa"
    if head_dim > VARLEN_MAX_HEAD_DIM or head_dim % VARLEN_HEAD_DIM_MULTIPLE:
        return (
            f"needs a head_dim of at most {VARLEN_MAX_HEAD_DIM} that is a multiple of {VARLEN_HEAD_DIM_MULTIPLE}, "
            f"found {head_dim}; set model.attention=sdpa"
        )
    return ""


def _refuse_flash_attn(case: _Case) -> str:
    if case.device.type == "cuda" and case.dtype in HALF_TYPES and not installed():
        return "needs the package flash-attn; run pip install 'slm[gpu]' or set model.attention=varlen"
    return _refuse_kernels(case)


def _refuse_flex(case: _Case) -> str:
    if case.device.type == "cpu" and case.training:
        return "computes no gradients on a CPU; set model.attention=sdpa or train on a GPU"
    if case.device.type not in ("cpu", "cuda"):
        return f"computes on cuda and cpu, but the model is on {case.device.type}; set model.attention=sdpa"
    head_dim = case.config.head_dim
    if case.device.type == "cuda" and head_dim < FLEX_MIN_HEAD_DIM:
        return f"needs a head_dim of at least {FLEX_MIN_HEAD_DIM}, found {head_dim}; set model.attention=sdpa"
    return ""


REFUSALS: dict[str, Callable[[_Case], str]] = {
    "sdpa": lambda _case: "",
    "flash_attn": _refuse_flash_attn,
    "varlen": _refuse_kernels,
    "flex": _refuse_flex,
}
"""Why a backend cannot compute a case, as an ending of `model.attention (...) ...`; empty if it can."""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def multiplies_bf16(device: str) -> bool:
    """Whether the hardware has instructions for bf16 products."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
