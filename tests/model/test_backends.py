"""Which kernel is chosen, why, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from slm.core.errors import UserError
from slm.model.backends import choose, installed
from slm.model.config import ModelConfig

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
Shape = Callable[..., ModelConfig]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes torch tell of a GPU of a given capability, and the package flash-attn be there or not."""

    def make(capability: tuple[int, int] = (9, 0), *, flash_attn: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
        monkeypatch.setattr("slm.model.backends.installed", lambda: flash_attn)

    return make


def test_auto_takes_the_first_kernel_that_can_compute_and_says_why(shape: Shape, gpu: Callable[..., None]) -> None:
    gpu(flash_attn=True)
    assert str(choose(shape(), CUDA, BF16, training=True)) == "flash_attn (auto: the first that can compute here)"
    gpu()
    assert choose(shape(), CUDA, BF16, training=True).name == "varlen"
    assert choose(shape(), CUDA, FP16, training=False).name == "varlen"
    in_fp32 = choose(shape(), CUDA, FP32, training=True)
    assert str(in_fp32) == "sdpa (auto: varlen computes in bfloat16 or float16, found float32)"
    assert choose(shape(head_dim=20), CUDA, BF16, training=True).name == "sdpa"
    gpu((7, 5), flash_attn=True)
    old = choose(shape(), CUDA, BF16, training=True)
    assert str(old) == "sdpa (auto: varlen needs compute capability 8.0, but this GPU has 7.5)"
    here = choose(shape(), CPU, BF16, training=True)
    assert str(here) == "sdpa (auto: varlen needs an NVIDIA GPU, but the model is on cpu)"


def test_what_was_asked_for_is_taken(shape: Shape, gpu: Callable[..., None]) -> None:
    gpu(flash_attn=True)
    for name in ("sdpa", "flash_attn", "varlen", "flex"):
        assert str(choose(shape(attention=name), CUDA, BF16, training=True)) == f"{name} (as asked for)"
    assert choose(shape(attention="flex"), CUDA, FP32, training=True).name == "flex"
    assert choose(shape(attention="flex"), CPU, FP32, training=False).name == "flex"
    assert choose(shape(attention="varlen", sliding_window=8), CUDA, BF16, training=True).name == "varlen"


REFUSED = [
    ("flash_attn", CPU, BF16, {}, r"needs an NVIDIA GPU, but the model is on cpu; set model.attention=sdpa"),
    ("varlen", CPU, BF16, {}, r"varlen\) needs an NVIDIA GPU, but the model is on cpu; set model.attention=sdpa"),
    ("varlen", CUDA, FP32, {}, r"bfloat16 or float16, found float32; set train.precision=bf16 or model.attention=sdpa"),
    ("flash_attn", CUDA, BF16, {}, r"needs the package flash-attn; run pip install 'slm\[gpu\]' or set"),
    ("varlen", CUDA, BF16, {"head_dim": 264}, r"a head_dim of at most 256 that is a multiple of 8, found 264; set"),
    ("varlen", CUDA, BF16, {"head_dim": 12}, r"a head_dim of at most 256 that is a multiple of 8, found 12; set"),
    ("flex", CPU, FP32, {}, r"flex\) computes no gradients on a CPU; set model.attention=sdpa or train on a GPU"),
    ("flex", CUDA, BF16, {"head_dim": 8}, r"flex\) needs a head_dim of at least 16, found 8; set model.attention=sdpa"),
    ("flex", MPS, BF16, {}, r"flex\) computes on cuda and cpu, but the model is on mps; set model.attention=sdpa"),
]


@pytest.mark.parametrize(("name", "device", "dtype", "changes", "sentence"), REFUSED)
def test_what_cannot_be_computed_is_refused_with_the_way_out(
    shape: Shape,
    gpu: Callable[..., None],
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    changes: dict[str, int],
    sentence: str,
) -> None:
    gpu()
    with pytest.raises(UserError, match=sentence) as refused:
        choose(shape(attention=name, **changes), device, dtype, training=True)
    assert str(refused.value).startswith(f"model.attention ({name}) ")


def test_an_old_gpu_is_refused_by_name(shape: Shape, gpu: Callable[..., None]) -> None:
    gpu((7, 5), flash_attn=True)
    for name in ("flash_attn", "varlen"):
        with pytest.raises(UserError, match=r"needs compute capability 8.0, but this GPU has 7.5; set model.attention"):
            choose(shape(attention=name), CUDA, BF16, training=True)


def test_looking_for_the_package_does_not_import_it() -> None:
    installed()
    assert "flash_attn" not in sys.modules


def test_a_model_is_imported_without_the_compiler() -> None:
    program = "import sys, slm.model.transformer; print([n for n in ('torch._dynamo', 'sympy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
