"""Device and arithmetic are resolved once and explicitly."""

from __future__ import annotations

import pytest
import torch

from slm.core.errors import UserError
from slm.train import precision
from slm.train.config import TrainConfig
from slm.train.precision import autocast, prepare_device, resolve_device, resolve_precision


def test_cuda_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"train\.device is cuda, but torch sees no GPU here; set train\.device=cpu"):
        resolve_device(TrainConfig(device="cuda"))
    assert resolve_device(TrainConfig()) == "cpu"


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device(TrainConfig()) == "cuda"
    assert resolve_device(TrainConfig(device="cpu")) == "cpu"


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_follows_the_hardware(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
    assert resolve_precision(TrainConfig(), "cpu") == expected
    assert resolve_precision(TrainConfig(), "cuda") == expected


def test_an_explicit_precision_is_kept():
    assert resolve_precision(TrainConfig(precision="fp32"), "cpu") == "fp32"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bf16_weights_need_a_device_that_multiplies_bf16(monkeypatch, device):
    config = TrainConfig(precision="bf16_weights")
    monkeypatch.setattr("slm.train.precision.multiplies_bf16", lambda _device: False)
    with pytest.raises(UserError, match=rf"\(bf16_weights\) needs .+, which this {device} does not; set"):
        resolve_precision(config, device)
    monkeypatch.setattr("slm.train.precision.multiplies_bf16", lambda _device: True)
    assert resolve_precision(config, device) == "bf16_weights"


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("bf16", torch.bfloat16), ("bf16_weights", torch.bfloat16), ("fp32", torch.float32)],
)
def test_autocast_decides_the_type_of_matrix_products(precision, dtype):
    with autocast("cpu", precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_threads_and_the_allocator_are_set_up_for_a_cpu(monkeypatch):
    calls = []
    monkeypatch.setattr(precision, "keep_freed_memory", lambda: calls.append("kept"))
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    assert prepare_device(TrainConfig(device="cpu", precision="fp32", threads=3)) == ("cpu", "fp32")
    assert calls == [3, "kept"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert prepare_device(TrainConfig(precision="fp32"))[0] == "cuda"
    assert calls == [3, "kept"]
