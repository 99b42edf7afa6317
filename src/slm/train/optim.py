"""AdamW for everything, or Muon for the matrices of the blocks and AdamW for the rest.

In: a model and its `OptimizerConfig`. Out: an `Optimizer` whose state is a flat dictionary of tensors named
after the parameters, which is what a checkpoint of tensors only can hold. Norms, embeddings and the head
never decay. Muon (Jordan 2024, `torch.optim.Muon`) orthogonalises the momentum of each matrix.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from slm.core.errors import DamagedError
from slm.train.config import OptimizerConfig


class Optimizer:
    """One or two torch optimizers behind one face."""

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        matrices, others = split_parameters(model)
        adamw_groups = [{"params": others, "weight_decay": 0.0}]
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if config.kind == "muon":
            self._parts["muon"] = torch.optim.Muon(
                matrices,
                lr=config.muon_lr,
                weight_decay=config.weight_decay,
                momentum=config.momentum,
                nesterov=True,
            )
        else:
            adamw_groups.append({"params": matrices, "weight_decay": config.weight_decay})
        self._parts["adamw"] = torch.optim.AdamW(
            adamw_groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
        )
        self._peaks = {"muon": config.muon_lr, "adamw": config.lr}

    def step(self, lr_share: float) -> None:
        """Update the parameters with `lr_share` of the peak learning rates, and drop the gradients."""
        for name, part in self._parts.items():
            for group in part.param_groups:
                group["lr"] = self._peaks[name] * lr_share
            part.step()
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forget the gradients, and so the step."""
        for part in self._parts.values():
            part.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, as `adamw.exp_avg.<parameter>`."""
        return {
            f"{part_name}.{slot}.{self._names[parameter]}": value
            for part_name, part in self._parts.items()
            for parameter, slots in part.state.items()
            for slot, value in slots.items()
            if isinstance(value, Tensor)
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_tensors` returned; names must fit the parameters of this model exactly."""
        parameters = {name: parameter for parameter, name in self._names.items()}
        for key, value in tensors.items():
            part_name, slot, name = key.split(".", 2)
            if part_name not in self._parts or name not in parameters:
                raise DamagedError(
                    f"optimizer state {key} belongs to no parameter of this model; "
                    "the checkpoint is of another model or optimizer: start a new run"
                )
            self._parts[part_name].state[parameters[name]][slot] = value


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(matrices of the blocks, everything else: embeddings, head and norms), in the model's order."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and name.startswith("blocks.")
        (matrices if is_matrix else others).append(parameter)
    return matrices, others
