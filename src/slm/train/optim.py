"""AdamW for everything, or Muon for the matrices of the blocks and AdamW for the rest.

In: a model and its `OptimizerConfig`. Out: an `Optimizer` whose state is a flat dictionary of tensors named
after the parameters, which is what a checkpoint of tensors only can hold; where the model is in shards, so is
its state. With `shape`, the parametrization of the config scales each parameter's learning rate, decay and
epsilon. Norms, embeddings and the head never decay. Muon (Jordan 2024, `torch.optim.Muon`) orthogonalises the
momentum of each matrix.

With `offload` state and step are on the CPU, on a second copy of the weights there: a GPU keeps 8 bytes a
parameter less (two moments), and each step sends gradients down and weights up, 8 bytes a parameter in all.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from slm.core.errors import DamagedError, UserError
from slm.model.config import ModelConfig
from slm.train.config import OptimizerConfig, TrainConfig
from slm.train.muon import Muon
from slm.train.parallel import copied, copies_on_cpu, take_over
from slm.train.parametrization import Scale, groups, scale_of


class Optimizer:
    """One or two torch optimizers behind one face."""

    def __init__(
        self, model: nn.Module, config: OptimizerConfig, shape: ModelConfig | None = None, *, offload: bool = False
    ) -> None:
        self._updated = copies_on_cpu(model.parameters()) if offload else {p: p for p in model.parameters()}
        """What the optimizers update, by the parameter that it stands for."""
        names: dict[Tensor, str] = {self._updated[parameter]: name for name, parameter in model.named_parameters()}
        self._names = names
        parts = ([self._updated[parameter] for parameter in part] for part in split_parameters(model))
        matrices, others = ([(names[parameter], parameter) for parameter in part] for part in parts)

        def scale(name: str) -> Scale:
            return Scale() if shape is None else scale_of(name, config, shape)

        adamw_groups = groups(others, config.lr, 0.0, config.eps, scale)
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if config.kind == "muon":
            self._parts["muon"] = Muon(
                groups(matrices, config.muon_lr, config.weight_decay, None, scale),
                lr=config.muon_lr,
                weight_decay=config.weight_decay,
                momentum=config.momentum,
                nesterov=True,
            )
        else:
            adamw_groups += groups(matrices, config.lr, config.weight_decay, config.eps, scale)
        self._parts["adamw"] = torch.optim.AdamW(
            adamw_groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
        )

    def step(self, lr_share: float) -> None:
        """Update the parameters with `lr_share` of the peak learning rates, and drop the gradients."""
        for parameter, copy in self._copies():
            copy.grad = None if parameter.grad is None else copied(parameter.grad, copy)
        for part in self._parts.values():
            for group in part.param_groups:
                group["lr"] = group["peak_lr"] * lr_share
            part.step()
        for parameter, copy in self._copies():
            take_over(parameter, copy)
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forget the gradients, and so the step."""
        for part in self._parts.values():
            part.zero_grad(set_to_none=True)
        for parameter, _ in self._copies():
            parameter.grad = None

    def _copies(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        return [(parameter, copy) for parameter, copy in self._updated.items() if copy is not parameter]

    def state_tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, as `adamw.exp_avg.<parameter>`."""
        return {
            f"{part_name}.{slot}.{self._names[parameter]}": value
            for part_name, part in self._parts.items()
            for parameter, slots in part.state.items()
            for slot, value in slots.items()
            if isinstance(value, Tensor)
        }

    def parameter(self, key: str) -> Tensor | None:
        """The parameter that a tensor of the state belongs to."""
        named = {name: parameter for parameter, name in self._names.items()}
        return named.get(key.split(".", 2)[-1])

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_tensors` returned, after the weights; names must fit the parameters exactly."""
        for parameter, copy in self._copies():
            take_over(copy, parameter)
        parameters = {name: parameter for parameter, name in self._names.items()}
        for key, value in tensors.items():
            part_name, slot, name = key.split(".", 2)
            if part_name not in self._parts or name not in parameters:
                raise DamagedError(
                    f"optimizer state {key} belongs to no parameter of this model; "
                    "the checkpoint is of another model or optimizer: start a new run"
                )
            self._parts[part_name].state[parameters[name]][slot] = value


def offloads(config: TrainConfig, device: str) -> bool:
    """Whether optimizer state is kept on the CPU, apart from the weights."""
    if config.offload_optimizer and device == "cpu":
        raise UserError(
            "train.offload_optimizer is true, but training runs on the CPU, where the optimizer's state is anyway; "
            "leave it out, or set train.device=cuda"
        )
    return config.offload_optimizer


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(matrices of the blocks, everything else: embeddings, head and norms), in the model's order."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and name.startswith("blocks.")
        (matrices if is_matrix else others).append(parameter)
    return matrices, others
