"""A whole block as one step of autograd, with a backward written by hand; what training takes on a CPU.

In: a block's input and weights. Out: what `Block` computes from its modules, which stay the definition; gradients
agree with theirs to rounding (1e-5 in float32, tested). What it saves is passes over memory:

- q, k and v are one product, gate and up another; the weight of the norm before them is multiplied into the
  matrix, which has fewer rows than the activations have tokens, so no pass scales activations by it;
- nothing is kept in float32 but the residual stream and one number a token and norm, nothing is cast twice,
  and no gradient begins as zeros; backward computes silu once more instead of keeping it;
- rotation works on halves in place of rolled copies;
- attention is made of matrix products (`slm.model.causal_products`), which skip what lies above the diagonal in
  packed rows too, where SDPA takes no mask and causal flag together.

Where it does not apply (`reason_against`), the modules run one by one: inference, GPUs, other attention kernels,
dropout, anything that looks inside the block (hooks, selective recomputation, a compiler), weights that are frozen
or still cut into shards. FSDP2 gathers a block's weights before its forward, so on CPUs its blocks are fused too.

Shapes: N tokens of a micro-batch (B rows of T), W width, H heads, G key/value heads, D head_dim, F ffn_width,
R = (H + 2 G) D.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from slm.model.attention import Attention, Plan
from slm.model.causal_products import attend_causal, attend_causal_backward
from slm.model.mlp import SwiGLU
from slm.model.norm import RMSNorm, compute_dtype
from slm.model.rope import Rotation

if TYPE_CHECKING:
    from slm.core.batch import Dropout
    from slm.model.block import Block

_FUSED = (Attention, SwiGLU, RMSNorm, nn.Linear)
GRAPH_NODE = "_FusedBlockBackward"
"""How autograd calls a fused block."""


class _Shape(NamedTuple):
    """What forward and backward must know besides tensors."""

    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    dtype: torch.dtype
    first_keys: list[list[int]]
    """Goes with the mask: where each block of queries begins to see keys."""


def reason_against(block: Block, x_BTW: Tensor, how: Plan, dropout: Dropout | None = None) -> str:
    """Why the modules must run one by one here; empty where `fused_block` may stand for them."""
    if block.as_written:
        return "its modules must run one by one: as asked, compiled, or parts of it are computed once more"
    if dropout is not None and (dropout.rate or dropout.path_rates[block.layer]):
        return "parts are left out at random"
    if x_BTW.device.type != "cpu" or not torch.is_grad_enabled():
        return "only training on a CPU is fused"
    if x_BTW.dtype != torch.float32 or how.backend != "sdpa" or not (how.causal or how.mask_BTK is not None):
        return "float32 residuals and SDPA over rows of several tokens are fused, nothing else"
    for module in block.modules():
        if type(module) not in _FUSED and module is not block:
            return f"a {type(module).__name__} stands in the block"
        if module is not block and (_watched(module) or "forward" in vars(module)):
            return "a hook watches a module of the block"
        if getattr(module, "bias", None) is not None:
            return "a matrix has a bias"
    for weight in block.parameters():
        if hasattr(weight, "placements") or weight.dtype != torch.float32 or not weight.requires_grad:
            return "a weight is frozen, sharded or not float32"
    return ""


def fused_block(block: Block, x_BTW: Tensor, rotation: Rotation, how: Plan) -> Tensor:
    """What `block` makes of `x_BTW`; ask `reason_against` first."""
    attention, ffn = block.attention, block.ffn
    shape = _Shape(
        attention.heads,
        attention.kv_heads,
        attention.head_dim,
        block.attention_norm.eps,
        compute_dtype(x_BTW),
        how.first_keys,
    )
    head_norms: tuple[Tensor | None, Tensor | None] = (None, None)
    if attention.q_norm is not None and attention.k_norm is not None:
        head_norms = (attention.q_norm.weight, attention.k_norm.weight)
    apply = cast("Callable[..., Tensor]", _FusedBlock.apply)
    return apply(
        x_BTW, *rotation, how.mask_BTK, shape, block.attention_norm.weight, *head_norms, block.ffn_norm.weight,
        attention.q.weight, attention.k.weight, attention.v.weight, attention.o.weight,
        ffn.gate.weight, ffn.up.weight, ffn.down.weight,
    )  # fmt: skip


class _FusedBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BTW: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, shape: _Shape, norm_W: Tensor,
        q_norm_D: Tensor | None, k_norm_D: Tensor | None, ffn_norm_W: Tensor, *matrices: Tensor,
    ) -> Tensor:  # fmt: skip
        q, k, v, o, gate, up, down = matrices
        dtype, rows, width = shape.dtype, x_BTW.shape[:2], x_BTW.shape[2]
        x_NW = x_BTW.flatten(0, 1)
        into_heads, into_ffn = _stacked((q, k, v), norm_W, dtype), _stacked((gate, up), ffn_norm_W, dtype)
        out_of_heads, out_of_ffn = o.to(dtype), down.to(dtype)

        normal_NW, inverse_N1 = _normalise(x_NW, shape.eps, dtype)
        raw = (normal_NW @ into_heads.T).view(*rows, -1, shape.head_dim)
        heads, head_state = _heads_forward(raw, (q_norm_D, k_norm_D), cos, sin, shape)
        attended_NE = attend_causal(*heads, None if mask is None else (mask, shape.first_keys)).flatten(2).flatten(0, 1)
        x_NW = x_NW + attended_NE @ out_of_heads.T

        ffn_normal_NW, ffn_inverse_N1 = _normalise(x_NW, shape.eps, dtype)
        gate_up_N2F = ffn_normal_NW @ into_ffn.T
        gate_NF, up_NF = gate_up_N2F.chunk(2, 1)
        inner_NF = functional.silu(gate_NF).mul_(up_NF)
        out_NW = x_NW + inner_NF @ out_of_ffn.T

        ctx.shape = shape
        ctx.save_for_backward(
            normal_NW, inverse_N1, *heads, attended_NE, mask, cos, sin, ffn_normal_NW, ffn_inverse_N1,
            gate_up_N2F, inner_NF, into_heads, out_of_heads, into_ffn, out_of_ffn,
            norm_W, q_norm_D, k_norm_D, ffn_norm_W, *matrices, *head_state,
        )  # fmt: skip
        return out_NW.view(*rows, width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (
            normal_NW, inverse_N1, q_BHTD, k_BGTD, v_BGTD, attended_NE, mask, cos, sin, ffn_normal_NW, ffn_inverse_N1,
            gate_up_N2F, inner_NF, into_heads, out_of_heads, into_ffn, out_of_ffn,
            norm_W, q_norm_D, k_norm_D, ffn_norm_W, q, k, v, _, gate, up, _, *head_state,
        ) = ctx.saved_tensors  # fmt: skip
        shape: _Shape = ctx.shape
        seen = None if mask is None else (mask, shape.first_keys)
        upstream_NW = gradients[0].flatten(0, 1)

        slope_NW = upstream_NW.to(shape.dtype)
        for_down = (slope_NW.T @ inner_NF).float()
        slope_N2F = _swiglu_backward(slope_NW @ out_of_ffn, gate_up_N2F)
        (for_gate, for_up), for_ffn_norm = _unstacked(slope_N2F.T @ ffn_normal_NW, (gate, up), ffn_norm_W)
        upstream_NW = _normalise_backward(slope_N2F @ into_ffn, ffn_normal_NW, ffn_inverse_N1, upstream_NW)

        slope_NW = upstream_NW.to(shape.dtype)
        for_o = (slope_NW.T @ attended_NE).float()
        slope_BTHD = (slope_NW @ out_of_heads).view(*gradients[0].shape[:2], -1, shape.head_dim)
        for_heads = attend_causal_backward(slope_BTHD.transpose(1, 2), q_BHTD, k_BGTD, v_BGTD, seen)
        slope_NR, for_head_norms = _heads_backward(for_heads, head_state, (q_norm_D, k_norm_D), cos, sin, shape)
        (for_q, for_k, for_v), for_norm = _unstacked(slope_NR.T @ normal_NW, (q, k, v), norm_W)
        upstream_NW = _normalise_backward(slope_NR @ into_heads, normal_NW, inverse_N1, upstream_NW)
        return (
            upstream_NW.view_as(gradients[0]), None, None, None, None, for_norm, *for_head_norms, for_ffn_norm,
            for_q, for_k, for_v, for_o, for_gate, for_up, for_down,
        )  # fmt: skip


def _stacked(matrices: Sequence[Tensor], norm_W: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices that multiply the same activations as one, the weight of the norm before them multiplied in."""
    stacked = matrices[0].new_empty((sum(len(matrix) for matrix in matrices), len(norm_W)), dtype=dtype)
    for part, matrix in zip(stacked.split_with_sizes([len(matrix) for matrix in matrices]), matrices, strict=True):
        part.copy_(matrix * norm_W)
    return stacked


def _unstacked(slope: Tensor, matrices: Sequence[Tensor], norm_W: Tensor) -> tuple[list[Tensor], Tensor]:
    """Gradients of the matrices and of the norm from the gradient of what `_stacked` made."""
    parts = slope.split_with_sizes([len(matrix) for matrix in matrices])
    for_norm_W = torch.zeros_like(norm_W)
    for part, matrix in zip(parts, matrices, strict=True):
        for_norm_W += (part * matrix).sum(0)
    return [part * norm_W for part in parts], for_norm_W


def _normalise(x: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`x` over its root mean square in `dtype`, and one over that root in float32."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    inverse = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * inverse).to(dtype), inverse


def _normalise_backward(slope: Tensor, normal: Tensor, inverse: Tensor, upstream: Tensor) -> Tensor:
    """The gradient that reaches `x` through `_normalise`, added to what reaches it past the block's half."""
    along = (slope * normal).sum(-1, keepdim=True, dtype=torch.float32).div_(-normal.shape[-1])
    return torch.addcmul(upstream, torch.addcmul(slope, normal, along.to(slope.dtype)), inverse)


def _swiglu_backward(slope_NF: Tensor, gate_up_N2F: Tensor) -> Tensor:
    """The gradient of gate and up side by side from that of silu(gate) * up, which is used up."""
    out_N2F = torch.empty_like(gate_up_N2F)
    for_gate_NF, for_up_NF = out_N2F.chunk(2, 1)
    gate_NF, up_NF = gate_up_N2F.chunk(2, 1)
    torch.mul(functional.silu(gate_NF), slope_NF, out=for_up_NF)
    torch.ops.aten.silu_backward.grad_input(slope_NF.mul_(up_NF), gate_NF, grad_input=for_gate_NF)
    return out_N2F


def _heads_forward(
    raw: Tensor, norms: tuple[Tensor | None, Tensor | None], cos: Tensor, sin: Tensor, shape: _Shape
) -> tuple[tuple[Tensor, Tensor, Tensor], list[Tensor]]:
    """Queries, keys and values [B, heads, T, D], and with norms on queries and keys what their backward needs."""
    state: list[Tensor] = []
    turned = []
    q, k, v = raw.split_with_sizes([shape.heads, shape.kv_heads, shape.kv_heads], 2)
    for source, norm_D in zip((q, k), norms, strict=True):
        target = torch.empty_like(source.transpose(1, 2), memory_format=torch.contiguous_format)
        if norm_D is None:
            _turn(source, target.transpose(1, 2), cos, *sin.chunk(2, -1))
        else:
            normal, inverse = _normalise(source, shape.eps, shape.dtype)
            state += [normal, inverse]
            _turn(normal * norm_D.to(shape.dtype), target.transpose(1, 2), cos, *sin.chunk(2, -1))
        turned.append(target)
    return (turned[0], turned[1], v.transpose(1, 2).contiguous()), state


def _heads_backward(
    slopes: Sequence[Tensor], state: Sequence[Tensor], norms: tuple[Tensor | None, Tensor | None],
    cos: Tensor, sin: Tensor, shape: _Shape,
) -> tuple[Tensor, list[Tensor | None]]:  # fmt: skip
    """The gradient of the product that made queries, keys and values, [N, R], and those of the norms on heads."""
    for_q, for_k, for_v = (slope.transpose(1, 2) for slope in slopes)
    sizes = [shape.heads, shape.kv_heads, shape.kv_heads]
    out = torch.empty((*for_q.shape[:2], sum(sizes), shape.head_dim), dtype=shape.dtype)
    for_norms: list[Tensor | None] = []
    targets = out.split_with_sizes(sizes, 2)
    second, first = sin.chunk(2, -1)  # the inverse of a rotation is its transpose
    for number, (slope, target, norm_D) in enumerate(zip((for_q, for_k), targets[:2], norms, strict=True)):
        _turn(slope, target, cos, first, second)
        if norm_D is None:
            for_norms.append(None)
            continue
        normal, inverse = state[2 * number : 2 * number + 2]
        for_norms.append((target * normal).sum((0, 1, 2), dtype=torch.float32))
        target.copy_(_normalise_backward(target * norm_D.to(shape.dtype), normal, inverse, torch.zeros(())))
    out[:, :, -shape.kv_heads :] = for_v
    return out.flatten(2).flatten(0, 1), for_norms


def _turn(source: Tensor, target: Tensor, cos: Tensor, first: Tensor, second: Tensor) -> None:
    """source * cos + its halves exchanged * sines, into `target`: `slm.model.rope.rotate` without the roll."""
    torch.mul(source, cos, out=target)
    low, high = source.chunk(2, -1)
    target_low, target_high = target.chunk(2, -1)
    target_low.addcmul_(high, first)
    target_high.addcmul_(low, second)


def _watched(module: nn.Module) -> bool:
    """Whether somebody asked to see what goes into this module or comes out of it."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
