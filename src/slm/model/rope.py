"""Rotary positions: angles from positions in, rotated queries and keys out.

Convention: Hugging Face's half split, in which entry i of a head turns with entry i + head_dim / 2.
(llama.cpp's `llama` architecture pairs neighbours instead, so a GGUF writer permutes the rows of q and k.)

Cosines and sines are computed in float32 once per length and device and kept; a forward gathers the rows
of its positions once, in the type it computes in, and all layers share them. Rounding the tables to
bfloat16 under autocast costs no more than the rounding of q and k themselves (2^-9, relative). Rolling the
head by half its width and multiplying by signed sines takes 0.63 of the time of splitting and concatenating
(CPU, bfloat16, forward and backward).

Shapes: B rows, T tokens, H heads, D = head_dim, F = D / 2 frequencies, P positions in the table.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from slm.model.config import ModelConfig, RopeScaling

Rotation = tuple[Tensor, Tensor]
"""cos_BT1D and sin_BT1D (T1D where all rows have the same positions), over whole heads: cosines of both halves,
and sines with the sign of their half."""

_SMALLEST_TABLE = 256


def frequencies(config: ModelConfig, device: torch.device | None = None) -> Tensor:
    """Radians per position, float32 [F], after scaling."""
    exponents_F = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device) / config.head_dim
    radians_F = 1.0 / (config.rope_theta**exponents_F)
    if config.rope_scaling is None:
        return radians_F
    if config.rope_scaling.kind == "linear":
        return radians_F / config.rope_scaling.factor
    return _llama3(radians_F, config.rope_scaling)


def _llama3(radians_F: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1's rule: long waves are stretched, short ones kept, those between blended (Meta's reference code)."""
    longest_kept = scaling.original_max_seq_len / scaling.high_freq_factor
    shortest_stretched = scaling.original_max_seq_len / scaling.low_freq_factor
    waves_F = 2 * math.pi / radians_F
    blend_F = (scaling.original_max_seq_len / waves_F - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    between_F = (1 - blend_F) * radians_F / scaling.factor + blend_F * radians_F
    stretched_F = torch.where(waves_F > shortest_stretched, radians_F / scaling.factor, between_F)
    return torch.where(waves_F < longest_kept, radians_F, stretched_F)


class RotaryTables:
    """Cosines and sines of all positions seen so far, per device and type; they grow as longer rows come.

    Not a module: nothing here is learned or saved.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._tables: dict[tuple[torch.device, torch.dtype], Rotation] = {}

    def span(self, start: int, stop: int, device: torch.device, dtype: torch.dtype) -> Rotation:
        """Positions start .. stop - 1, the same in every row; views, not copies."""
        cos_PD, sin_PD = self._table(stop, device, dtype)
        return cos_PD[start:stop, None], sin_PD[start:stop, None]

    def at(self, positions_BT: Tensor, longest: int, dtype: torch.dtype) -> Rotation:
        """The rows of `positions_BT`, all of which lie below `longest`."""
        cos_PD, sin_PD = self._table(longest, positions_BT.device, dtype)
        return cos_PD[positions_BT].unsqueeze(2), sin_PD[positions_BT].unsqueeze(2)

    def _table(self, num_positions: int, device: torch.device, dtype: torch.dtype) -> Rotation:
        found = self._tables.get((device, dtype))
        if found is None or found[0].shape[0] < num_positions:
            size = max(_SMALLEST_TABLE, 1 << (num_positions - 1).bit_length())
            # Kept out of inference mode: tables made in it could not be used in a later training step.
            with torch.inference_mode(False), torch.no_grad():
                steps_P = torch.arange(size, dtype=torch.float32, device=device)
                angles_PF = torch.outer(steps_P, frequencies(self._config, device))
                cos_PF, sin_PF = angles_PF.cos().to(dtype), angles_PF.sin().to(dtype)
                found = torch.cat((cos_PF, cos_PF), 1), torch.cat((-sin_PF, sin_PF), 1)
            self._tables[device, dtype] = found
        return found


def rotate(x_BTHD: Tensor, rotation: Rotation) -> Tensor:
    """Turn every head by its position's angles: (a, b) becomes (a cos - b sin, b cos + a sin)."""
    cos, sin = rotation
    return x_BTHD * cos + x_BTHD.roll(cos.shape[-1] // 2, -1) * sin
