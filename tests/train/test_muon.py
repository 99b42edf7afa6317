"""Muon on shards: torch's own numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from slm.train.muon import Muon

SETTINGS = {"lr": 0.1, "weight_decay": 0.2, "momentum": 0.9, "nesterov": True}


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """A group of this process alone, in which shards are whole."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def matrices() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in ((6, 4), (4, 6), (5, 5))]


def gradient(matrix: torch.Tensor, step: int) -> torch.Tensor:
    return torch.sin(matrix * (step + 1))


def test_shards_get_the_updates_of_whole_matrices_bit_for_bit(mesh):
    whole = [torch.nn.Parameter(matrix) for matrix in matrices()]
    sharded = [torch.nn.Parameter(distribute_tensor(matrix, mesh, [Shard(0)])) for matrix in matrices()]
    reference, optimizer = torch.optim.Muon(whole, **SETTINGS), Muon(sharded, **SETTINGS)
    for step in range(3):
        for mine, other in zip(sharded, whole, strict=True):
            other.grad = gradient(other.detach(), step)
            mine.grad = distribute_tensor(other.grad.clone(), mesh, [Shard(0)])
        reference.step()
        optimizer.step()
    for mine, other in zip(sharded, whole, strict=True):
        torch.testing.assert_close(mine.full_tensor(), other, rtol=0, atol=0)
        momentum = optimizer.state[mine]["momentum_buffer"]
        assert isinstance(momentum, DTensor)
        torch.testing.assert_close(momentum.full_tensor(), reference.state[other]["momentum_buffer"], rtol=0, atol=0)


def test_a_matrix_without_a_gradient_stays(mesh):
    sharded = [torch.nn.Parameter(distribute_tensor(matrix, mesh, [Shard(0)])) for matrix in matrices()]
    sharded[1].grad = distribute_tensor(gradient(matrices()[1], 0), mesh, [Shard(0)])
    Muon(sharded, **SETTINGS).step()
    same = [torch.equal(mine.full_tensor(), matrix) for mine, matrix in zip(sharded, matrices(), strict=True)]
    assert same == [True, False, True]


def test_whole_matrices_are_left_to_torch():
    mine, other = ([torch.nn.Parameter(matrix) for matrix in matrices()] for _ in range(2))
    for parameters, kind in ((mine, Muon), (other, torch.optim.Muon)):
        optimizer = kind(parameters, **SETTINGS)
        for parameter in parameters:
            parameter.grad = gradient(parameter.detach(), 0)
        optimizer.step()
    assert all(torch.equal(one, two) for one, two in zip(mine, other, strict=True))
