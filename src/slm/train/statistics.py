"""`train.statistics_every_steps`: how large activations, weights, gradients and updates are, layer by layer.

In: a step between its gradients and its update. Out: one row of kind `layers` in the metrics, with figures named
`output_rms.03` (layer 3) or `weight_rms.embedding`. Activations (root mean square and largest absolute value of
what a block hands on, of its attention and of its feed-forward) come from one more forward over the first
micro-batch of rank 0, without dropout and padding; weights, gradients (before clipping) and updates are those of
the step, over the matrices of a layer. Rows are of steps that were taken; a refused one has an autopsy instead.

The step itself is computed as always, so results do not change by a bit. A measured step costs that forward and
a copy of the weights; on others nothing is hooked or copied.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from slm.core.batch import Batch
from slm.train.parallel import Parallel
from slm.train.precision import autocast

if TYPE_CHECKING:
    from slm.train.loop import Run

Figures = dict[str, float]


@contextlib.contextmanager
def layers_measured(run: Run, batches: list[Batch], grad_norm: float, clip_norm: float) -> Iterator[Figures]:
    """Measures around the update that stands inside; the figures are complete after it."""
    model, parallel = run.state.model, run.parallel
    weights = matrices(model)
    before = {name: [parameter.detach().clone() for parameter in group] for name, group in weights.items()}
    unclipped = max(1.0, grad_norm / clip_norm) if clip_norm else 1.0
    figures = activations(run, batches[0])
    for name, group in weights.items():
        gradients = [parameter.grad for parameter in group if parameter.grad is not None]
        figures[f"weight_rms.{name}"] = root_mean_square(before[name], parallel)
        figures[f"grad_rms.{name}"] = root_mean_square(gradients, parallel) * unclipped
    yield figures
    for name, group in weights.items():
        moved = [parameter.detach() - old for parameter, old in zip(group, before[name], strict=True)]
        weight = figures[f"weight_rms.{name}"]
        figures[f"update_share.{name}"] = root_mean_square(moved, parallel) / weight if weight else 0.0


def matrices(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The matrices of each layer, named by its number in two digits, and of embedding and head."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            first, *rest = name.split(".")
            found.setdefault(f"{int(rest[0]):02d}" if first == "blocks" else first, []).append(parameter)
    return found


@torch.no_grad()
def activations(run: Run, batch: Batch) -> Figures:
    """Sizes of what each block, its attention and its feed-forward hand on, over the tokens that are no padding."""
    model, figures = run.state.model, Figures()
    real_BT = batch.documents_BT >= 0

    def watch(module: nn.Module, name: str, number: int) -> torch.utils.hooks.RemovableHandle:
        def hook(_module: nn.Module, _inputs: object, out_BTD: Tensor) -> None:
            kept_ND = out_BTD[real_BT].float()
            figures[f"{name}_rms.{number:02d}"] = float(kept_ND.square().mean().sqrt())
            figures[f"{name}_max.{number:02d}"] = float(kept_ND.abs().max())

        return module.register_forward_hook(hook)

    with contextlib.ExitStack() as hooks:
        for number, block in enumerate(model.blocks):
            parts = {"output": block} | {name: block.get_submodule(name) for name in ("attention", "ffn")}
            for name, module in parts.items():
                hooks.callback(watch(module, name, number).remove)
        with run.rounding.applied(model, run.state.tokens), autocast(run.device, run.precision):
            model.hidden(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)
    run.parallel.settle(model)
    return figures


def root_mean_square(tensors: list[Tensor], parallel: Parallel) -> float:
    """Over all entries of all tensors, of which each process may hold a part; all must call it."""
    squares = sum(parallel.norm(tensor) ** 2 for tensor in tensors)
    return math.sqrt(squares / max(1, sum(tensor.numel() for tensor in tensors)))
