"""muP and CompleteP: initialisation and learning rates that let a small model's settings serve a large one.

In: the name of a parameter, the optimizer's settings, the model's shape. Out: the factors on its initial
weights, learning rate, weight decay and epsilon, against `standard`; all are 1 at the base width and depth.
The formulation has no multipliers in the forward pass, so models, checkpoints and exports stay as they are:

    m = width / base_width, d = layers / base_layers (1 with mup); AdamW; matrices decay, nothing else does

                                   initial weights   learning rate   weight decay   epsilon
    embedding                      m^(1/2)           1               -              1/m
    q, k, v, gate, up              1                 1/m             m              1/(m d)
    o, down                        d^(-1/2)          1/(m d)         m d            1/m
    norms of the blocks            1                 1               -              1/(m d)
    last norm                      1                 1               -              1/m
    head                           m^(-1/2)          1/m             -              1

Sources: Tensor Programs V (arXiv 2203.03466, table 3) for width; CompleteP (2505.01618) for depth, its 1/d on
each residual branch folded into o and down, which AdamW cannot tell apart. Muon's update has the same spectral
norm at every width, so under it m is 1 for the matrices of the blocks.

What differs from the papers: attention keeps 1/sqrt(head_dim), so widen with more heads, not longer ones; the
head cannot be tied, since embedding and head want different sizes; and `clip_norm` sees gradients whose parts
scale differently, so compare runs with it far above the usual norm, or 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from slm.model.config import ModelConfig
from slm.model.transformer import Transformer
from slm.train.config import OptimizerConfig


@dataclass(frozen=True, slots=True)
class Scale:
    """Factors on what `standard` gives a parameter."""

    init: float = 1.0
    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0


def scale_of(name: str, config: OptimizerConfig, shape: ModelConfig) -> Scale:
    """The factors for the parameter `name`; see the table above."""
    if config.parametrization == "standard":
        return Scale()
    m = shape.width / config.base_width
    d = shape.layers / config.base_layers if config.parametrization == "completep" else 1.0
    if name == "embedding.weight":
        return Scale(init=m**0.5, eps=1 / m)
    if name == "head.weight":
        return Scale(init=m**-0.5, lr=1 / m)
    if name.endswith("norm.weight"):
        return Scale(eps=1 / (m * d) if name.startswith("blocks.") else 1 / m)
    wide = 1.0 if config.kind == "muon" else m
    if name.endswith(("attention.o.weight", "ffn.down.weight")):
        return Scale(init=d**-0.5, lr=1 / (wide * d), weight_decay=wide * d, eps=1 / m)
    return Scale(lr=1 / wide, weight_decay=wide, eps=1 / (m * d))


@torch.no_grad()
def rescale(model: Transformer, config: OptimizerConfig) -> None:
    """Give fresh weights the sizes that the parametrization asks for."""
    for name, parameter in model.named_parameters():
        factor = scale_of(name, config, model.config).init
        if factor != 1.0:
            parameter.mul_(factor)


def groups(
    parameters: list[tuple[str, torch.nn.Parameter]],
    lr: float,
    weight_decay: float,
    eps: float | None,
    scale: Callable[[str], Scale],
) -> list[dict[str, object]]:
    """Parameter groups for a torch optimizer, one for each different `Scale`, `peak_lr` beside `lr`."""
    found: dict[Scale, list[torch.nn.Parameter]] = {}
    for name, parameter in parameters:
        found.setdefault(scale(name), []).append(parameter)
    made = []
    for each, members in found.items():
        group: dict[str, object] = {"params": members, "lr": lr * each.lr, "peak_lr": lr * each.lr}
        group["weight_decay"] = weight_decay * each.weight_decay
        if eps is not None:
            group["eps"] = eps * each.eps
        made.append(group)
    return made
