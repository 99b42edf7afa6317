"""`train.quantization`: training that sees its matrices as `slm.compress` will round them (QAT).

In: settings and the model. Out: a `Rounding`: the grid of each matrix, and a context in which a model holds
what `slm.model.integers` makes of its weights, bit for bit what method rtn with the same settings writes into a file.
Forward and backward of a step, and evaluation, run inside; outside, and so in the optimizer, the average and every
checkpoint, weights are float32 as ever. The gradient of a rounded weight goes to the weight itself (the
straight-through estimator of Bengio et al., arXiv 1308.3432): since every group's range is spanned by its own weights,
rounding clips nothing, and no gradient has to be cut off. Norms are never rounded.

Rounding is a function of the weights, so it adds nothing to the state. It goes row by row, so shards of FSDP2, which
are rows, are rounded where they lie; with `bf16_weights` the copy is taken from the rounded weights. It costs one
copy of the weights, and twice a step one pass over them. What it does not do: round activations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from slm.core.console import quantity, say
from slm.model.integers import Grid, grid_for, outside_grid, quantize
from slm.model.transformer import Transformer
from slm.train.config import QuantizationConfig
from slm.train.parallel import local


@dataclass(frozen=True, slots=True)
class Rounding:
    """How the matrices of a model are rounded, and from when on; one without grids rounds nothing."""

    grids: Mapping[str, Grid | None] = field(default_factory=dict)
    """By the parameter's name; None is float16."""
    from_tokens: int = 0
    bits: int = 0

    def begun(self, tokens: int) -> bool:
        """Whether a model is rounded so many tokens into the run."""
        return bool(self.grids) and tokens >= self.from_tokens

    @contextmanager
    def applied(self, model: Transformer, tokens: int) -> Iterator[None]:
        """Inside, if it has begun by then, `model` holds rounded matrices; afterwards what it held before."""
        parameters = dict(model.named_parameters()) if self.begun(tokens) else {}
        held = {name: local([parameters[name].detach()])[0] for name in parameters if name in self.grids}
        kept = {name: tensor.clone() for name, tensor in held.items()}
        try:
            for name, tensor in held.items():
                tensor.copy_(rounded(tensor, self.grids[name]))
            yield
        finally:
            for name, tensor in held.items():
                tensor.copy_(kept[name])


def rounded(matrix_OI: Tensor, grid: Grid | None) -> Tensor:
    """The numbers that a file will hold for a matrix, float32."""
    return matrix_OI.half().float() if grid is None else quantize(matrix_OI, grid).dequantize()


def rounding_of(config: QuantizationConfig, model: Transformer) -> Rounding:
    """The grids that the settings give each matrix; says what they are, and where a group had to be another."""
    if not config.bits:
        return Rounding()
    wanted = Grid(config.bits, config.group_size, config.symmetric)
    grids: dict[str, Grid | None] = {}
    others: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim != 2:
            continue
        inputs = parameter.shape[1]
        if not name.startswith("blocks."):
            grids[name] = None if config.outside_bits == 16 else outside_grid(config.outside_bits, inputs)
            continue
        matrix, setting = name.split(".", 2)[2].removesuffix(".weight"), "train.quantization"
        take_next = config.on_misfit == "next"
        grid = grid_for(wanted, inputs, matrix, setting, f"{setting}.on_misfit", take_next=take_next)
        grids[name] = grid
        if grid != wanted:
            others[matrix] = f"{matrix} has rows of {inputs:,}, so its groups are of {grid.group_size}"
    groups = f"groups of {config.group_size}" if config.group_size else "rows"
    since = f" from token {quantity(config.from_tokens)} on" if config.from_tokens else ""
    say(
        f"train: forward and evaluation see matrices rounded to {config.bits} bits in {groups}, embedding and head to "
        f"{config.outside_bits}{since}; checkpoints hold them in float32"
    )
    for notice in others.values():
        say(f"train: {notice} instead of {config.group_size}")
    return Rounding(grids, config.from_tokens, config.bits)
