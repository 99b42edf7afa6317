"""How several processes share one model: replicas, or shards of weights, gradients and optimizer state.

In: a model and a `World`. Out: the same model, so prepared that the loop and every objective stay as they are.

- `single`: one process.
- `ddp`: each process holds the whole model; after the last micro-batch gradients are added up in flat pieces of
  `BUCKET_ELEMENTS`. One exchange a step however many micro-batches; it does not overlap with the backward pass.
- `full_shard`, `shard_grad_op`: PyTorch's FSDP2 per block; weights are dropped again after each block's forward,
  or kept until its backward. `hybrid_shard`: full_shard inside groups (of one machine), replicas between them.

Gradients are summed and never averaged: the loss is already divided by the targets of all processes. Under
FSDP2 `hidden` is registered as a forward method, and the root keeps its weights between forward and backward,
so `head_weight` is a whole tensor wherever an objective takes it.

What it does not do: tensor or pipeline parallelism. Each process builds the whole
model once before it is cut, so host memory must hold the model once per process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from slm.core.distributed import SOLO, World
from slm.core.errors import UserError
from slm.model.load import Take, model_from
from slm.model.lora import merged_state
from slm.model.transformer import Transformer
from slm.train.config import TrainConfig

Strategy = Literal["single", "ddp", "full_shard", "shard_grad_op", "hybrid_shard"]
BUCKET_ELEMENTS = 1 << 24
"""64 MB of float32 gradients in one exchange: the extra memory of ddp."""


@dataclass(frozen=True, slots=True)
class Parallel:
    """A strategy in a world."""

    world: World = SOLO
    strategy: Strategy = "single"
    shard_processes: int = 1
    """hybrid_shard: processes that hold one copy of the model together."""

    def __str__(self) -> str:
        return f"{self.strategy} over {self.world.size} processes ({'NCCL' if self.world.device == 'cuda' else 'gloo'})"

    @property
    def shards(self) -> bool:
        """Whether parameters are cut into pieces."""
        return self.strategy not in ("single", "ddp")

    def distribute(self, model: Transformer) -> Transformer:
        """Prepare `model` in place; its parameters become shards under FSDP2."""
        if not self.shards:
            return model
        size, inner = self.world.size, self.shard_processes
        if self.strategy == "hybrid_shard":
            mesh = init_device_mesh(self.world.device, (size // inner, inner), mesh_dim_names=("replicate", "shard"))
        else:
            mesh = init_device_mesh(self.world.device, (size,), mesh_dim_names=("shard",))
        again = self.strategy != "shard_grad_op"
        for block in model.blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=again)
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
        for part in _sharded_modules(model):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no other
        register_fsdp_forward_method(model, "hidden")
        return model

    def reduce_gradients(self, model: nn.Module) -> None:
        """Add up gradients over all processes after the last micro-batch; FSDP2 has done so by itself."""
        if self.strategy != "ddp":
            return
        for bucket in _buckets(parameter for parameter in model.parameters() if parameter.requires_grad):
            for parameter in bucket:
                if parameter.grad is None:  # unused here, but perhaps not elsewhere
                    parameter.grad = torch.zeros_like(parameter)
            gradients = [cast("Tensor", parameter.grad) for parameter in bucket]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, piece in zip(gradients, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))

    def clip(self, model: nn.Module, limit: float) -> float:
        """Scale gradients down to a norm of `limit` (0: leave them); returns the norm over the whole model."""
        limit = limit if limit > 0 else math.inf
        if not self.shards:
            return float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit, error_if_nonfinite=False))
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        total = torch.nn.utils.get_total_norm(gradients)
        total = total.full_tensor() if isinstance(total, DTensor) else total
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), limit, total)
        return float(total)

    def norm(self, gradient: Tensor) -> float:
        """The norm of one whole gradient; all must call it."""
        found = gradient.norm()
        return float(found.full_tensor() if isinstance(found, DTensor) else found)

    def settle(self, model: nn.Module) -> None:
        """After a forward without backward: drop the gathered weights, which the next update would leave stale."""
        for part in _sharded_modules(model):
            part.reshard()

    def gather(self, tensors: Mapping[str, Tensor], owner: Mapping[str, int] | None = None) -> dict[str, Tensor]:
        """Whole tensors by name, one at a time, each kept on the CPU of its owner (rank 0); all must call it.

        One process keeps what it has, without a copy.
        """
        if self.world.size == 1:
            return dict(tensors)
        whole: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.world.rank == (owner[name] if owner else 0):
                whole[name] = full.cpu() if isinstance(tensor, DTensor) else full
        return whole

    def whole(self, model: Transformer) -> Callable[[], Transformer] | None:
        """What makes a model that rank 0 can use alone: itself, or a copy put together from shards; None elsewhere.

        All must call it; what it gives may fail without the others noticing.
        """
        if not self.shards:
            return (lambda: model) if self.world.leader else None
        state = self.gather(merged_state(model))
        if not self.world.leader:
            return None
        return lambda: model_from(model.config, state, Path("train")).to(self.world.device)

    @torch.no_grad()
    def everywhere(self, model: Transformer) -> Transformer:
        """A model that each process can use alone: itself, or a copy put together from shards; all must call it."""
        if not self.shards:
            return model
        tensors = merged_state(model).items()
        state = {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors}
        return model_from(model.config, state, Path("train"))

    def gather_equal(self, tensor: Tensor) -> list[Tensor]:
        """The same small CPU tensor of every process, by rank, everywhere."""
        if self.world.size == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.world.size)]
        dist.all_gather(found, tensor)
        return found


def choose(config: TrainConfig, world: World) -> Parallel:
    """The strategy that the recipe names, checked against the processes that there are."""
    wanted, size = config.parallel, world.size
    if wanted == "auto":
        wanted = "single" if size == 1 else "ddp"
    if wanted == "single" and size > 1:
        raise UserError(
            f"train.parallel is single, but {size} processes were started and would train the same run; "
            "set train.parallel=auto, or start one process"
        )
    if wanted != "single" and size == 1:
        raise UserError(
            f"train.parallel is {wanted}, but there is one process; set train.parallel=auto, or start several with "
            "torchrun --nproc-per-node N -m slm.train"
        )
    if wanted == "hybrid_shard":
        if not (config.shard_processes or world.even):
            raise UserError(
                "train.parallel is hybrid_shard and machines have different numbers of processes, so those of one "
                "machine cannot be the default of train.shard_processes; set it, or start as many on each machine"
            )
        inner = config.shard_processes or world.local_size
        if size % inner or not 1 < inner < size:
            raise UserError(
                f"train.parallel is hybrid_shard with {inner} processes to a copy of the model (train.shard_processes, "
                f"or those of one machine), but {size} processes must make several whole copies of several each; "
                "set train.shard_processes to a divisor between, or train.parallel=full_shard"
            )
        return Parallel(world, wanted, inner)
    return Parallel(world, wanted, size if wanted not in ("single", "ddp") else 1)


def part_of(wanted: Callable[[str], Tensor | None]) -> Take:
    """Reads of each tensor in a file the part that this process holds of `wanted(name)`, and nothing else."""

    def take(file: Any, name: str) -> Tensor:
        target = wanted(name)
        if not isinstance(target, DTensor) or list(target.shape) != file.get_slice(name).get_shape():
            return cast("Tensor", file.get_tensor(name)).clone()  # whole, a step count, or for the check to refuse
        part = cast("DTensor", torch.empty_like(target))
        part.to_local().copy_(file.get_slice(name)[held_ranges(target)])
        return part

    return take


def held_ranges(tensor: DTensor) -> tuple[slice, ...]:
    """Where in the whole the part lies that this process holds."""
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(slice(begin, begin + size) for begin, size in zip(offset, shape, strict=True))


def copies_on_cpu(parameters: Iterable[nn.Parameter]) -> dict[nn.Parameter, nn.Parameter]:
    """A second copy of each parameter in the computer's memory; of a shard the same shard, exchanged by gloo."""
    meshes: dict[DeviceMesh, DeviceMesh] = {}
    copies = {}
    for parameter in parameters:
        (held,) = local([parameter.detach()])
        copy: Tensor = held.to("cpu", copy=True)
        if isinstance(parameter, DTensor):
            mesh = parameter.device_mesh
            if mesh not in meshes:
                meshes[mesh] = init_device_mesh("cpu", tuple(mesh.shape), mesh_dim_names=mesh.mesh_dim_names)
            copy = DTensor.from_local(
                copy, meshes[mesh], parameter.placements, run_check=False, shape=parameter.shape,
                stride=parameter.stride(),
            )  # fmt: skip
        copies[parameter] = nn.Parameter(copy)
    return copies


def copied(tensor: Tensor, form: Tensor) -> Tensor:
    """`tensor` where and as `form` is: on its device, in its shards."""
    copy = torch.empty_like(form)
    take_over(copy, tensor)
    return copy


@torch.no_grad()
def take_over(target: Tensor, source: Tensor) -> None:
    """Copy values between tensors that are whole or cut alike, on whatever devices."""
    for mine, other in zip(local([target]), local([source]), strict=True):
        mine.copy_(other)


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The part of each tensor that this process holds."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def _sharded_modules(model: nn.Module) -> Iterator[FSDPModule]:
    return (part for part in model.modules() if isinstance(part, FSDPModule))


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        if bucket and sum(map(Tensor.numel, bucket)) + parameter.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
