"""Attention by the flash-attn package on NVIDIA GPUs: documents of unequal length, no mask, no padding work.

Documents of all rows are laid end to end and flash-attn is told where each begins (`cu_seqlens`), so the
cost is the sum of squared document lengths instead of rows times squared row length. float16 and
bfloat16 only. Queries, keys and values of cached decoding do not come here.

Not run: this project's machines so far had no GPU with flash-attn. What is tested is everything up to the
call: that `boundaries` describes exactly the attention that the mask of the SDPA backend describes, and
that the call receives what it describes. flash-attn comes as source only and needs nvcc to install.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch
from torch import Tensor

from slm.core.errors import UserError

TYPES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Where documents begin when all rows are laid end to end."""

    cu_seqlens: Tensor
    """int32 [documents + 1], from 0 to the number of tokens."""
    longest: int
    """Upper bound on tokens in a document."""


def installed() -> bool:
    """Whether the flash-attn package can be found; it is not imported."""
    return importlib.util.find_spec("flash_attn") is not None


def refusal(device: torch.device, dtype: torch.dtype) -> str:
    """Why flash-attn cannot compute here, as an ending of `model.attention (flash_attn) ...`; empty if it can."""
    if device.type != "cuda":
        return f"needs an NVIDIA GPU, but the model is on {device.type}; set model.attention=sdpa"
    if dtype not in TYPES:
        return (
            f"computes in bfloat16 or float16, found {str(dtype).removeprefix('torch.')}; "
            "set train.precision=bf16 or model.attention=sdpa"
        )
    if not installed():
        return "needs the package flash-attn; run pip install 'slm[gpu]' or set model.attention=sdpa"
    return ""


def boundaries(documents_BT: Tensor | None, batch: int, num_tokens: int, device: torch.device) -> Boundaries:
    """Starts of documents over all rows; a row begins a document, and padding is a document of its own.

    `longest` is the row length, an upper bound: the true maximum would stall the device and make the
    kernel's shape change from step to step.
    """
    if documents_BT is None:
        starts = torch.arange(0, batch * num_tokens + 1, num_tokens, dtype=torch.int32, device=device)
        return Boundaries(starts, num_tokens)
    begins_BT = torch.ones((batch, num_tokens), dtype=torch.bool, device=device)
    begins_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    starts = begins_BT.flatten().nonzero().flatten().to(torch.int32)
    end = torch.tensor([batch * num_tokens], dtype=torch.int32, device=device)
    return Boundaries(torch.cat((starts, end)), num_tokens)


def attend_varlen(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, where: Boundaries, window: int) -> Tensor:
    """Causal attention inside documents, [B, T, H, D]; `window` 0 sees all of the document."""
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError as error:
        raise UserError(
            f"model.attention (flash_attn) needs the package flash-attn ({error}); "
            "run pip install 'slm[gpu]' or set model.attention=sdpa"
        ) from error
    out: Tensor = flash_attn_varlen_func(
        q_BTHD.flatten(0, 1),
        k_BTGD.flatten(0, 1),
        v_BTGD.flatten(0, 1),
        where.cu_seqlens,
        where.cu_seqlens,
        where.longest,
        where.longest,
        causal=True,
        window_size=(window - 1, 0) if window else (-1, -1),
    )
    return out.view(q_BTHD.shape)
