"""`train.noise_scale_every_steps`: the gradient noise scale, which says whether steps are too small or too large.

In: the gradients of a step's micro-batches, and of the whole step. Out: rows of kind `noise` in the metrics. Since
noise adds 1/tokens of its variance to the square of a gradient's norm, two sizes of batch tell noise and gradient
apart (McCandlish et al., "An Empirical Model of Large-Batch Training", arXiv 1812.06162, appendix A.1):

    |g_b|^2 = |G|^2 + S/b    so    S = (|g_b|^2 - |g_B|^2) / (1/b - 1/B)    and    noise scale = S / |G|^2

b is the harmonic mean of the micro-batches' targets, B the targets of the step, and |g_b|^2 the mean over the
micro-batches of all processes. Both estimates are unbiased and noisy, so S and |G|^2 are smoothed apart: the mean
of the first `SMOOTHING` measurements, an exponential average from then on. What has been smoothed so far is read
back from the metrics, so a run that goes on continues it.

Gradients stay where they are: a measured step takes one more copy of them and a pass over both for each
micro-batch. Tokens of a row are not independent, so the scale is that of rows, told in tokens. Under FSDP2 the
micro-batches of all processes that are computed at once count as one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from slm.core.console import quantity
from slm.core.errors import UserError
from slm.train.metrics import METRICS, Metrics, read_metrics
from slm.train.parallel import Parallel

SMOOTHING = 10
"""Measurements that the smoothed figures are about a mean of."""


@dataclass(slots=True)
class NoiseScale:
    """Collects over the micro-batches of a step; does nothing in steps that are not to be measured."""

    every: int
    folder: Path
    model: nn.Module
    parallel: Parallel
    targets: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)
    """For each micro-batch the square of the norm of what it added to the gradients of the step."""
    gradients: list[Tensor] = field(default_factory=list)
    """As they were after the last micro-batch."""
    smoothed: tuple[float, float, int] | None = None
    """Squared gradient, variance of the noise, and measurements so far; None until they were looked up."""

    def check(self, micro_batches: int) -> None:
        """Refuse a step of so many micro-batches a process in which there is nothing to compare."""
        if self.every and micro_batches * (1 if self.parallel.shards else self.parallel.world.size) < 2:
            raise UserError(
                f"train.noise_scale_every_steps ({self.every}) needs at least 2 micro-batches in a step, found 1; "
                "lower train.micro_batch_rows, or set train.noise_scale_every_steps=0"
            )

    def add(self, step: int, targets: int) -> None:
        """Measure the micro-batch of `targets` targets whose gradients were just added, in the step after `step`."""
        if not self.every or (step + 1) % self.every:
            return
        found = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        added = [new - old for new, old in zip(found, self.gradients, strict=True)] if self.gradients else found
        squares = sum(self.parallel.norm(gradient) ** 2 for gradient in added)
        self.gradients = [gradient.detach().clone() for gradient in found]
        together = self.parallel.world.sum(targets)[0] if self.parallel.shards else targets
        if together:
            self.targets.append(together)
            self.squares.append(squares)

    def write(self, grad_norm: float, refused: bool, metrics: Metrics, step: int, tokens: int) -> None:
        """A row about the step that was measured, if one was and it is not refused; all must call it."""
        targets, squares = self.targets, self.squares
        self.targets, self.squares, self.gradients = [], [], []
        if not self.every or step % self.every or refused:
            return
        sums = [float(len(targets)), sum(targets), sum(1 / each for each in targets)]
        sums.append(sum(square / each**2 for square, each in zip(squares, targets, strict=True)))
        if not self.parallel.shards:
            sums = self.parallel.world.sum(*sums)
        count, total, inverse, weighted = sums
        if count < 2:  # a small step, where steps grow
            return
        small, signal, noise = count / inverse, grad_norm**2, 0.0
        signal, noise = estimate(weighted * total**2 / count, small, signal, total)
        squared, variance, number = self.smoothed or smoothed_so_far(self.folder)
        number += 1
        weight = 1 / min(number, SMOOTHING)
        squared, variance = squared + weight * (signal - squared), variance + weight * (noise - variance)
        self.smoothed = (squared, variance, number)
        figures = {"gradient_squared": signal, "noise_variance": noise}
        figures |= {"smoothed_gradient_squared": squared, "smoothed_noise_variance": variance, "measurements": number}
        if squared > 0 and variance > 0:
            figures["noise_scale_tokens"] = variance / squared
        metrics.write("noise", step, tokens, **figures)


def estimate(small_squared: float, small: float, large_squared: float, large: float) -> tuple[float, float]:
    """(|G|^2, variance of the noise of one target) from the mean squared norms at two sizes of batch."""
    signal = (large * large_squared - small * small_squared) / (large - small)
    noise = (small_squared - large_squared) / (1 / small - 1 / large)
    return signal, noise


def smoothed_so_far(folder: Path) -> tuple[float, float, int]:
    """What the last row of the metrics says."""
    rows = [row for row in read_metrics(folder / METRICS) if row["kind"] == "noise"]
    if not rows:
        return 0.0, 0.0, 0
    last = rows[-1]
    return last["smoothed_gradient_squared"], last["smoothed_noise_variance"], last["measurements"]


def advice(folder: Path, batch_tokens: int) -> str:
    """What the metrics of a run say about steps of `batch_tokens`; empty where they say nothing.

    To reach a loss, steps of B tokens take 1 + noise/B times the fewest possible steps and 1 + B/noise times the
    fewest possible tokens (equation 2.11 of the paper).
    """
    rows = [row for row in read_metrics(folder / METRICS) if row["kind"] == "noise" and "noise_scale_tokens" in row]
    if not rows:
        return ""
    scale = rows[-1]["noise_scale_tokens"]
    steps, tokens = 1 + scale / batch_tokens, 1 + batch_tokens / scale
    return (
        f"gradient noise scale {quantity(round(scale))} tokens at step {rows[-1]['step']:,}: steps of "
        f"{quantity(batch_tokens)} take {steps:.3g} times the fewest steps and {tokens:.3g} times the fewest tokens; "
        "of the noise scale itself, twice both"
    )
