"""Attention by kernels that are told where documents begin: no mask, no work on other documents or on padding.

Documents of all rows are laid end to end and the kernel is told where each begins (`cu_seqlens`), so the
cost is the sum of squared document lengths instead of rows times squared row length. float16 and bfloat16
only. The kernel is that of the flash-attn package, or the copy of it that torch brings along
(`torch.nn.attention.varlen`, torch 2.13). Queries, keys and values of cached decoding do not come here.

Not run: this project's machines so far had no GPU. What is tested is everything up to the calls: that
`boundaries` describes exactly the attention that the mask of the SDPA backend describes, and that a stand-in
which computes from what the call receives, as the kernel's documentation says, equals SDPA with that mask.
flash-attn comes as source only and needs nvcc to install. Both kernels add up the gradients of queries in an
order that changes from run to run, so a run on a GPU resumes to rounding with them, not bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from slm.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Where documents begin when all rows are laid end to end."""

    cu_seqlens: Tensor
    """int32 [documents + 1], from 0 to the number of tokens."""
    longest: int
    """Upper bound on tokens in a document."""


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


def attend_flash(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, where: Boundaries, window: int) -> Tensor:
    """Causal attention inside documents by flash-attn, [B, T, H, D]; `window` 0 sees all of the document."""
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError as error:
        raise UserError(
            f"model.attention (flash_attn) needs the package flash-attn ({error}); "
            "run pip install 'slm[gpu]' or set model.attention=varlen"
        ) from error
    out: Tensor = flash_attn_varlen_func(
        *_laid_out(q_BTHD, k_BTGD, v_BTGD, where),
        causal=True,
        window_size=(window - 1, 0) if window else (-1, -1),
    )
    return out.view(q_BTHD.shape)


def attend_varlen(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, where: Boundaries, window: int) -> Tensor:
    """The same by torch's copy of the kernel, to which a window without a right side means causal."""
    from torch.nn.attention.varlen import varlen_attn  # here, for it takes 1.4 s: it brings torch's compiler along

    out = varlen_attn(
        *_laid_out(q_BTHD, k_BTGD, v_BTGD, where),
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=q_BTHD.shape[2] != k_BTGD.shape[2],
    )
    assert isinstance(out, Tensor)  # a pair only where auxiliary outputs are asked for
    return out.view(q_BTHD.shape)


def _laid_out(
    q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, where: Boundaries
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int, int]:
    """What both kernels take first: all rows end to end, then where documents begin for queries and for keys."""
    rows = (q_BTHD.flatten(0, 1), k_BTGD.flatten(0, 1), v_BTGD.flatten(0, 1))
    return *rows, where.cu_seqlens, where.cu_seqlens, where.longest, where.longest
