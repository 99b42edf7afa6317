"""Weights as integers on a grid, and back: the one rounding that compression, training and export share.

A matrix [O, I] is cut along its inputs into G groups; each row of a group has a scale and a zero point, and stands
for (integer - zero) * scale. Scales are rounded to float16 *before* the integers are chosen, because that is how files
keep them: what is measured here is bit for bit what a file holds. A grid always holds 0, so weights that are 0 stay 0.

Rounding is to the nearest, ties to even, as torch does it. Clipping narrows the range of a group by a factor before
the scale is taken; `slm.compress` searches for it. What it does not do: float formats, grids with uneven steps.

Shapes: O outputs, I inputs, G groups, S = I / G numbers of a group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slm.core.errors import UserError

SMALLEST_SCALE = 2.0**-24
"""The smallest number above 0 of float16."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Which integers a weight may become."""

    bits: int
    """Width of an integer, 2 to 8."""
    group_size: int = 0
    """Neighbouring inputs that share a scale; 0 gives each row one scale."""
    symmetric: bool = False
    """Zero point in the middle, always; otherwise where the group's numbers want it."""

    @property
    def largest(self) -> int:
        """The largest integer; the smallest is 0."""
        return (1 << self.bits) - 1

    def groups(self, inputs: int) -> int:
        """How many groups a row of `inputs` numbers has; `UserError` if they do not fit."""
        size = self.group_size or inputs
        if inputs % size:
            raise UserError(
                f"a row of {inputs:,} weights does not fall into groups of {size:,}; take a group size that divides it "
                f"({', '.join(map(str, fitting_sizes(inputs)))}), or 0 for one group a row"
            )
        return inputs // size


@dataclass(frozen=True, slots=True)
class Integers:
    """A matrix on a grid."""

    values_OI: Tensor
    """uint8, 0 to `grid.largest`."""
    scales_OG: Tensor
    """float16."""
    zeros_OG: Tensor
    """uint8."""
    grid: Grid

    def dequantize(self) -> Tensor:
        """The matrix [O, I] that the integers stand for, float32."""
        groups = self.scales_OG.shape[1]
        values_OGS = grouped(self.values_OI, groups).to(torch.float32)
        weights_OGS = (values_OGS - self.zeros_OG.unsqueeze(-1)) * self.scales_OG.float().unsqueeze(-1)
        weights_OI: Tensor = weights_OGS.flatten(1)
        return weights_OI


def fitting_sizes(inputs: int) -> list[int]:
    """The usual group sizes that divide a row, largest first."""
    return [size for size in (256, 128, 64, 32) if inputs % size == 0]


def grid_for(wanted: Grid, inputs: int, matrix: str, setting: str, misfit: str, *, take_next: bool) -> Grid:
    """`wanted` for rows of `inputs`; a misfit is refused, or gets the next smaller group that fits.

    `matrix`, and the keys `setting` (a section with group_size) and `misfit`, are named in the refusal.
    """
    size = wanted.group_size
    if not size or inputs % size == 0:
        return wanted
    smaller = [fitting for fitting in fitting_sizes(inputs) if fitting < size]
    if not take_next or not smaller:
        ways = f"take {smaller[0]}, set {misfit}=next to take it there alone" if smaller else "take 0"
        raise UserError(
            f"{setting}.group_size ({size}) does not divide the rows of {matrix} ({inputs:,} weights); {ways}"
        )
    return replace(wanted, group_size=smaller[0])


def outside_grid(bits: int, inputs: int) -> Grid:
    """The grid of an embedding or a head: symmetric, in the largest groups that fit."""
    return Grid(bits, max(fitting_sizes(inputs), default=0), symmetric=True)


def grouped(matrix_OI: Tensor, groups: int) -> Tensor:
    """A matrix [O, I] as [O, G, S]."""
    return matrix_OI.reshape(len(matrix_OI), groups, -1)


def parameters(weight_OI: Tensor, grid: Grid, clip_OG: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scales (float16) and zero points (uint8), each [O, G], that span every group, narrowed by `clip_OG` if given."""
    weight_OGS = grouped(weight_OI.detach().float(), grid.groups(weight_OI.shape[1]))
    low_OG, high_OG = weight_OGS.amin(-1).clamp(max=0), weight_OGS.amax(-1).clamp(min=0)
    if clip_OG is not None:
        low_OG, high_OG = low_OG * clip_OG, high_OG * clip_OG
    half = 2 ** (grid.bits - 1)
    if grid.symmetric:
        step_OG = torch.maximum(high_OG / (half - 1), -low_OG / half)
    else:
        step_OG = (high_OG - low_OG) / grid.largest
    step_OG = torch.where(step_OG == 0, torch.ones_like(step_OG), step_OG.clamp(min=SMALLEST_SCALE))
    scales_OG = step_OG.to(torch.float16)
    if grid.symmetric:
        zeros_OG = torch.full_like(step_OG, half)
    else:
        zeros_OG = (-low_OG / scales_OG.float()).round().clamp(0, grid.largest)
    return scales_OG, zeros_OG.to(torch.uint8)


def rounded(weight_OI: Tensor, scales_OG: Tensor, zeros_OG: Tensor, grid: Grid) -> Integers:
    """The nearest integers of a matrix to given scales and zero points."""
    weight_OGS = grouped(weight_OI.detach().float(), scales_OG.shape[1])
    values_OGS = (weight_OGS / scales_OG.float().unsqueeze(-1)).round() + zeros_OG.unsqueeze(-1)
    return Integers(values_OGS.clamp(0, grid.largest).to(torch.uint8).flatten(1), scales_OG, zeros_OG, grid)


def quantize(weight_OI: Tensor, grid: Grid, clip_OG: Tensor | None = None) -> Integers:
    """Round a matrix to the nearest numbers of its grid."""
    scales_OG, zeros_OG = parameters(weight_OI, grid, clip_OG)
    return rounded(weight_OI, scales_OG, zeros_OG, grid)


def pack(values: Tensor, bits: int) -> Tensor:
    """Integers of at most 4 bits two to a byte, the even ones low; wider ones as they are. uint8, last dimension."""
    if bits > 4:
        return values
    even, odd = values[..., 0::2], values[..., 1::2]
    return even | (odd << 4)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """What `pack` was given."""
    if bits > 4:
        return packed
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
