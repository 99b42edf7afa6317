"""A block's matrices to integers: what may be scaled into what, in which order, by which method.

In: a block in float32 and the statistics of its four inputs. Out: the integers of its seven matrices, with the block
changed in place to what they stand for (norms and matrices that took up a scale included), so that running it is
running the compressed block.

A scale goes where it costs nothing: those of q, k, v into the norm before them, those of gate and up into theirs,
that of down into the rows of up, that of o into the rows of v. Where several query heads share a value head, their
inputs of o share its scale.

Shapes: O outputs, I inputs of a matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slm.compress import gptq
from slm.compress.awq import search_clip, search_scale
from slm.compress.config import Variant
from slm.compress.sparse import prune
from slm.compress.statistics import InputStatistics
from slm.model.block import Block
from slm.model.integers import Grid, Integers, quantize

INPUTS = {
    "attention.q": ("attention.q", "attention.k", "attention.v"),
    "attention.o": ("attention.o",),
    "ffn.gate": ("ffn.gate", "ffn.up"),
    "ffn.down": ("ffn.down",),
}
"""The first matrix that reads each input, and all that read it."""
MATRICES = tuple(name for names in INPUTS.values() for name in names)
NEVER_CLIPPED = ("attention.q", "attention.k")


@dataclass(slots=True)
class Gain:
    """What scaling did for one input, as squared errors of the outputs."""

    plain_error: float
    error: float


def compress_block(
    block: Block, statistics: Mapping[str, InputStatistics], variant: Variant, grids: Mapping[str, Grid]
) -> tuple[dict[str, Integers], dict[str, Gain]]:
    """The integers of each matrix that gets some, and what scaling gained by input; `block` becomes what they mean."""
    gains: dict[str, Gain] = {}
    seen = dict(statistics)
    if variant.method in ("awq", "scale"):
        for first, names in INPUTS.items():
            gains[first] = _scale(block, first, names, seen, grids[first])
    found: dict[str, Integers] = {}
    if variant.method == "scale":
        return found, gains
    for first, names in INPUTS.items():
        matrices = [_matrix(block, name) for name in names]
        rows = [len(matrix.weight) for matrix in matrices]
        weight_OI = torch.cat([matrix.weight.detach() for matrix in matrices])
        if variant.method == "sparse":
            weight_OI = prune(weight_OI, variant.prune_by, seen[first].gram_II if variant.reads_text else None)
        if variant.rounds:
            integers = _rounded(weight_OI, dict(zip(names, rows, strict=True)), seen.get(first), variant, grids[first])
            found |= zip(names, _split(integers, rows), strict=True)
            weight_OI = integers.dequantize()
        for matrix, part_OI in zip(matrices, torch.split(weight_OI, rows), strict=True):
            matrix.weight.data = part_OI.clone()
    return {name: found[name] for name in MATRICES if name in found}, gains


def _rounded(
    weight_OI: Tensor, rows: Mapping[str, int], statistics: InputStatistics | None, variant: Variant, grid: Grid
) -> Integers:
    """The integers of matrices that read one input, `rows` of each, one below the other."""
    if variant.method in ("rtn", "sparse") or statistics is None:
        return quantize(weight_OI, grid)
    gram_II = statistics.gram_II
    if variant.method == "gptq":
        return gptq.quantize(weight_OI, gram_II, grid)
    clip_OG = None
    if variant.clip:
        parts = zip(rows, torch.split(weight_OI, list(rows.values())), strict=True)
        groups = grid.groups(weight_OI.shape[1])
        clip_OG = torch.cat(
            [
                part_OI.new_ones(len(part_OI), groups) if name in NEVER_CLIPPED else search_clip(part_OI, gram_II, grid)
                for name, part_OI in parts
            ]
        )
    if variant.compensate:
        return gptq.quantize(weight_OI, gram_II, grid, clip_OG)
    return quantize(weight_OI, grid, clip_OG)


def _split(integers: Integers, rows: Sequence[int]) -> list[Integers]:
    """Integers of matrices one below the other, apart."""
    values, scales, zeros = (
        torch.split(part, list(rows)) for part in (integers.values_OI, integers.scales_OG, integers.zeros_OG)
    )
    parts = zip(values, scales, zeros, strict=True)
    return [Integers(value.clone(), scale.clone(), zero.clone(), integers.grid) for value, scale, zero in parts]


def _scale(block: Block, first: str, names: tuple[str, ...], seen: dict[str, InputStatistics], grid: Grid) -> Gain:
    """Find the scale of an input, and put it into the matrices that read it and into what makes it."""
    matrices = [_matrix(block, name) for name in names]
    shared_I = _value_slots(block) if first == "attention.o" else None
    best = search_scale([matrix.weight.detach() for matrix in matrices], seen[first], grid, shared_I)
    for matrix in matrices:
        matrix.weight.data = matrix.weight.data * best.scale_I
    seen[first] = seen[first].scaled(best.scale_I)
    if first == "attention.q":
        block.attention_norm.weight.data = block.attention_norm.weight.data / best.scale_I
    elif first == "ffn.gate":
        block.ffn_norm.weight.data = block.ffn_norm.weight.data / best.scale_I
    elif first == "ffn.down":
        block.ffn.up.weight.data = block.ffn.up.weight.data / best.scale_I.unsqueeze(1)
    else:
        assert shared_I is not None
        of_value = best.scale_I.new_empty(block.attention.v.weight.shape[0])
        of_value[shared_I] = best.scale_I
        block.attention.v.weight.data = block.attention.v.weight.data / of_value.unsqueeze(1)
    return Gain(best.plain_error, best.error)


def _value_slots(block: Block) -> Tensor:
    """For each input of o the row of v that it comes from, [I]."""
    attention = block.attention
    heads_I = torch.arange(attention.heads * attention.head_dim, device=attention.o.weight.device)
    head_I, inside_I = heads_I // attention.head_dim, heads_I % attention.head_dim
    return head_I // (attention.heads // attention.kv_heads) * attention.head_dim + inside_I


def _matrix(block: Block, name: str) -> nn.Linear:
    found = block.get_submodule(name)
    assert isinstance(found, nn.Linear)
    return found
