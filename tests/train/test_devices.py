"""The makers' figures; what is not in the table is unknown."""

from __future__ import annotations

import pytest

from slm.train.devices import DEVICES, data_sheet_flops, device_name


def test_a_known_device_has_its_data_sheets_dense_figure_for_bf16_alone():
    assert data_sheet_flops("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert data_sheet_flops("NVIDIA H100 80GB HBM3", "fp32") is None


@pytest.mark.parametrize("name", ["NVIDIA H100", "NVIDIA A10G", "NVIDIA GeForce RTX 4090 Laptop GPU", "cpu", ""])
def test_a_device_that_only_resembles_a_known_one_is_unknown(name):
    assert data_sheet_flops(name, "bf16") is None


def test_every_figure_names_its_source():
    assert all(device.source and device.memory_gb >= 8 and device.bf16_flops > 1e13 for device in DEVICES.values())


def test_a_cpu_is_only_that():
    assert device_name("cpu") == "cpu"
