"""Muon for matrices whose rows are spread over processes: `torch.optim.Muon` with the same numbers.

In: parameters, whole or in shards (FSDP2). Momentum is elementwise and stays in shards; orthogonalising needs
the whole matrix. So matrices are taken in waves of as many as there are processes: each is gathered, each
process orthogonalises one of them, and all send theirs round. The work divides by the processes; beside the
shards each holds a wave, and each matrix is sent twice a step, once gathered and once in bfloat16.

The two functions that torch keeps to itself are those of its own step; `pyproject.toml` bounds its version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from slm.train.parallel import held_ranges


class Muon(torch.optim.Muon):
    """What `torch.optim.Muon` does, also for parameters in shards."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; all processes must call it."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        if not any(isinstance(parameter, DTensor) for parameter in parameters):
            return cast("float | None", super().step(closure))  # type: ignore[no-untyped-call]
        for group in self.param_groups:
            with_gradient = [parameter for parameter in group["params"] if parameter.grad is not None]
            for first in range(0, len(with_gradient), dist.get_world_size()):
                self._step_wave(group, with_gradient[first : first + dist.get_world_size()])
        return None

    def _step_wave(self, group: dict[str, Any], wave: list[DTensor]) -> None:
        mine: torch.Tensor | None = None
        for owner, parameter in enumerate(wave):
            whole = self._momentum(group, parameter).full_tensor()
            if owner == dist.get_rank():
                mine = _zeropower_via_newtonschulz(whole, group["ns_coefficients"], group["ns_steps"], group["eps"])
        for owner, parameter in enumerate(wave):
            update = torch.empty(parameter.shape, dtype=torch.bfloat16, device=parameter.device)
            if mine is not None and owner == dist.get_rank():
                update.copy_(mine)
            dist.broadcast(update, src=owner)
            shard = parameter.to_local()
            shard.mul_(1 - group["lr"] * group["weight_decay"])
            lr = _adjust_lr(group["lr"], group["adjust_lr_fn"], parameter.shape)
            shard.add_(update[held_ranges(parameter)], alpha=-lr)

    def _momentum(self, group: dict[str, Any], parameter: DTensor) -> DTensor:
        """Move the momentum of one parameter; what is to be orthogonalised."""
        gradient, state = parameter.grad, self.state[parameter]
        assert isinstance(gradient, DTensor)  # callers leave out what has none
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"].to_local()
        buffer.lerp_(gradient.to_local(), 1 - group["momentum"])
        update = gradient.to_local().lerp(buffer, group["momentum"])
        return DTensor.from_local(
            update, gradient.device_mesh, gradient.placements, run_check=False, shape=gradient.shape,
            stride=gradient.stride(),
        )  # fmt: skip
