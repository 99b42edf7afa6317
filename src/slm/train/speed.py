"""How fast, beside what the machine can do: targets and model FLOPs a second, and the measured matmul rate.

Tokens are counted as targets: padding and the last token of a document, which predict nothing, are left
out. FLOPs are those that the model's formula needs for the documents as they are packed, so that short
documents, which see few keys, do not count as long ones; recomputation, the loss's own arithmetic and the
optimizer count for nothing. The yardstick is a product of square matrices in the same arithmetic, measured
at start (0.2 s), and beside it the data sheet's figure, or `unknown`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from slm.core.batch import Batch
from slm.core.console import quantity
from slm.core.distributed import SOLO, World
from slm.model.config import LoraConfig, ModelConfig
from slm.model.counting import matrix_flops_per_token
from slm.train.devices import UNKNOWN, data_sheet_flops, device_name
from slm.train.precision import Precision, matmul_dtype

PROBE_SECONDS = 0.2
PROBE_WIDTH = {"cpu": 1024, "cuda": 8192}


class Meter:
    """Adds up the work of steps; `lap` turns it into rates."""

    def __init__(
        self,
        config: ModelConfig,
        device: str,
        precision: Precision,
        world: World = SOLO,
        lora: LoraConfig | None = None,
    ) -> None:
        """Both yardsticks are for all processes together, and so are the rates."""
        self._config, self._lora, self._precision, self._world = config, lora, precision, world
        (self.matmul_flops,) = world.sum(matmul_rate(device, precision))
        sheet_flops = data_sheet_flops(device_name(device), precision)
        self.sheet_flops = sheet_flops and sheet_flops * world.size
        self._targets, self._flops, self._seconds = 0, 0.0, 0.0

    def yardstick(self) -> str:
        """What rates are compared with, in words."""
        sheet = flops_text(self.sheet_flops) if self.sheet_flops else UNKNOWN
        measured = f"this machine's measured {type_name(self._precision)} matmul rate"
        return f"{measured} ({flops_text(self.matmul_flops)}; data sheet {sheet})"

    def add(self, batches: Sequence[Batch]) -> None:
        """Count the batches of a step; asked before they leave for the device, so as not to wait for it."""
        self._targets += sum(batch.num_targets for batch in batches)
        self._flops += model_flops(batches, self._config, self._lora)

    def lap(self, seconds: float) -> dict[str, float | str]:
        """Rates since the last lap, as columns of the log; `seconds` is the time worked since the start."""
        passed = max(seconds - self._seconds, 1e-9)
        targets, flops = self._world.sum(self._targets, self._flops)
        rate = flops / passed
        figures: dict[str, float | str] = {
            "tokens_per_second": targets / passed,
            "model_flops_per_second": rate,
            "matmul_share": rate / self.matmul_flops,
            "mfu": rate / self.sheet_flops if self.sheet_flops else UNKNOWN,
            "seconds": passed,
        }
        self._targets, self._flops, self._seconds = 0, 0.0, seconds
        return figures


def model_flops(batches: Sequence[Batch], config: ModelConfig, lora: LoraConfig | None = None) -> float:
    """Forward and backward of these batches, by the formula of `slm.model.counting`, with the keys really seen."""
    tokens = pairs = 0
    for batch in batches:
        seen = (batch.positions_BT + 1)[batch.documents_BT >= 0]
        tokens += seen.numel()
        pairs += int((seen.clamp(max=config.sliding_window) if config.sliding_window else seen).sum())
    return (
        float(matrix_flops_per_token(config, lora)) * tokens
        + 12.0 * config.layers * config.heads * config.head_dim * pairs
    )


def matmul_rate(device: str, precision: Precision) -> float:
    """The best of a few products of square matrices, in operations a second. Draws no random number of the run's."""
    width = PROBE_WIDTH[device]
    dtype = matmul_dtype(precision)
    generator = torch.Generator(device).manual_seed(0)
    matrix = torch.randn(width, width, generator=generator, device=device).to(dtype)
    best, until = 0.0, time.perf_counter() + PROBE_SECONDS
    matrix @ matrix
    while not best or time.perf_counter() < until:
        _wait(device)
        began = time.perf_counter()
        matrix @ matrix
        _wait(device)
        best = max(best, 2 * width**3 / (time.perf_counter() - began))
    return best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def type_name(precision: Precision) -> str:
    """The numbers that are multiplied: `fp32` or `bf16`."""
    return "fp32" if precision == "fp32" else "bf16"


def flops_text(rate: float) -> str:
    """`332 GFLOP/s`, `1.34 TFLOP/s`."""
    return f"{rate / 1e12:.3g} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.0f} GFLOP/s"


def rates_text(rates: Mapping[str, float | str], precision: Precision) -> str:
    """The figures of `lap` for the progress line."""
    share = f"{100 * float(rates['matmul_share']):.0f} % of the {type_name(precision)} matmul rate"
    return (
        f"{quantity(float(rates['tokens_per_second']))} tokens/s, "
        f"{flops_text(float(rates['model_flops_per_second']))}, {share}"
    )
