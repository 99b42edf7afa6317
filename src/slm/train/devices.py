"""What the maker says that a device can do. A device that is not in the table is unknown, never guessed.

Dense bf16 matrix products with float32 accumulation, in operations a second; where a data sheet prints the
figure with 2:4 sparsity, half of it. Names are those that `torch.cuda.get_device_name` gives.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU as its data sheet describes it."""

    memory_gb: int
    bf16_flops: float
    source: str


HOPPER = "NVIDIA H100 and H200 data sheets"
AMPERE = "NVIDIA A100 data sheet"
ADA = "NVIDIA L4 and L40S data sheets"
GEFORCE_AMPERE = "NVIDIA Ampere GA102 whitepaper, appendix A"
GEFORCE_ADA = "NVIDIA Ada whitepaper, appendix A"

DEVICES: dict[str, Device] = {
    "NVIDIA H200": Device(141, 989e12, HOPPER),
    "NVIDIA H100 80GB HBM3": Device(80, 989e12, HOPPER),
    "NVIDIA H100 PCIe": Device(80, 756e12, HOPPER),
    "NVIDIA A100-SXM4-80GB": Device(80, 312e12, AMPERE),
    "NVIDIA A100 80GB PCIe": Device(80, 312e12, AMPERE),
    "NVIDIA A100-SXM4-40GB": Device(40, 312e12, AMPERE),
    "NVIDIA A100-PCIE-40GB": Device(40, 312e12, AMPERE),
    "NVIDIA L40S": Device(48, 362e12, ADA),
    "NVIDIA L4": Device(24, 121e12, ADA),
    "NVIDIA GeForce RTX 4090": Device(24, 165.2e12, GEFORCE_ADA),
    "NVIDIA GeForce RTX 4080": Device(16, 97.5e12, GEFORCE_ADA),
    "NVIDIA GeForce RTX 3090": Device(24, 71e12, GEFORCE_AMPERE),
    "NVIDIA GeForce RTX 3070": Device(8, 40.6e12, GEFORCE_AMPERE),
}
UNKNOWN = "unknown"


def device_name(device: str) -> str:
    """What the device calls itself; a CPU is only that, for torch does not say which."""
    if device != "cuda":
        return device
    import torch

    return torch.cuda.get_device_name()


def data_sheet_flops(name: str, precision: str) -> float | None:
    """The maker's figure for bf16; None for another arithmetic or a device that is not in the table."""
    known = DEVICES.get(name)
    return known.bf16_flops if known is not None and precision != "fp32" else None


def free_memory(device: str) -> None:
    """Give back what nothing holds any more, as after an allocation that failed."""
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
