"""Energy as counters tell it: RAPL zones in a folder that looks like sysfs, NVML as a table of functions."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import pytest

from slm.core import energy
from slm.core.distributed import World
from slm.core.energy import Energy, Gpus, Sockets, UnreadableError, add_up, energy_text, kilowatt_hours

RANGE = 65_532_610_987  # microjoules, as a socket's memory controller has it


@pytest.fixture
def powercap(tmp_path):
    """A machine of two sockets, one with a memory controller, one with cores apart, and a platform counter."""
    for zone, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:0:1", "dram"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl-mmio:0", "package-0"),
    ):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "name").write_text(f"{name}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text(f"{RANGE}\n")
        (tmp_path / zone / "energy_uj").write_text("1000000\n")
    return tmp_path


def spend(folder: Path, zone: str, microjoules: int) -> None:
    file = folder / zone / "energy_uj"
    (folder / "next").write_text(f"{(int(file.read_text()) + microjoules) % RANGE}\n")
    (folder / "next").replace(file)  # a thread may be reading


def test_packages_and_their_memory_are_added_and_nothing_is_counted_twice(powercap):
    meter = Energy(powercap=powercap)
    for zone in (
        "intel-rapl:0",
        "intel-rapl:0:0",
        "intel-rapl:0:1",
        "intel-rapl:1",
        "intel-rapl:2",
        "intel-rapl-mmio:0",
    ):
        spend(powercap, zone, 2_500_000)
    assert meter.read() == {"cpu": 7.5}
    meter.close()


def test_a_counter_that_starts_again_from_0_loses_nothing(powercap):
    sockets = Sockets(powercap)
    for _ in range(5):
        spend(powercap, "intel-rapl:1", RANGE * 3 // 4)
        sockets.joules()
    assert sockets.joules() == pytest.approx(5 * (RANGE * 3 // 4) / 1e6)


def test_a_counter_that_may_have_come_round_unseen_is_unknown_from_then_on(powercap, monkeypatch):
    meter = Energy(powercap=powercap)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    assert meter.read() == {"cpu": 0.0}
    monkeypatch.setattr(time, "monotonic", lambda: now + 130)
    assert "left alone for 70 s and may have come round" in str(meter.read()["cpu"])
    monkeypatch.setattr(time, "monotonic", lambda: now + 131)
    assert "may have come round" in str(meter.read()["cpu"])
    meter.close()


def test_counters_are_read_while_nobody_asks(powercap, monkeypatch):
    monkeypatch.setattr(energy, "READ_EVERY_SECONDS", 0.02)
    meter = Energy(powercap=powercap)
    for _ in range(3):  # twice round the counter in all: seen only if it is read in between
        spend(powercap, "intel-rapl:0", RANGE * 2 // 3)
        time.sleep(0.2)
    assert meter.read() == {"cpu": pytest.approx(2 * RANGE / 1e6)}
    meter.close()


def test_without_counters_energy_is_unknown_and_says_why(tmp_path, powercap):
    missing = Energy(powercap=tmp_path / "nowhere").read()
    assert energy_text(missing) == f"energy unknown: no readable counter (cpu: no RAPL counter in {tmp_path}/nowhere)"
    assert kilowatt_hours(missing) is None
    file = powercap / "intel-rapl:0" / "energy_uj"
    file.unlink()
    file.mkdir()  # not readable for anybody, root included
    refused = Energy(powercap=powercap).read()
    assert "energy_uj is not readable" in str(refused["cpu"])
    file.rmdir()
    file.write_text("what\n")
    assert "holds no number" in str(Energy(powercap=powercap).read()["cpu"])


class Driver:
    """NVML as far as it is asked: two GPUs with their millijoules."""

    def __init__(self) -> None:
        self.counts = {b"GPU-a": 5000, b"GPU-b": 9000}
        self.status = 0

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: object) -> int:  # noqa: N802
        handle._obj.value = list(self.counts).index(uuid) + 1
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, count: object) -> int:  # noqa: N802
        count._obj.value = list(self.counts.values())[handle.value - 1]
        return self.status


def test_gpus_are_read_from_the_drivers_own_counter(monkeypatch, powercap):
    driver = Driver()
    monkeypatch.setattr(energy, "visible_gpus", lambda count: ["GPU-a", "GPU-b"][:count])
    meter = Energy("cuda", World(size=2, local_size=2), powercap, driver)
    driver.counts[b"GPU-a"] += 2500
    driver.counts[b"GPU-b"] += 500
    assert meter.read() == {"cpu": 0.0, "gpu": 3.0}
    driver.status = 3  # not supported, as for a part of a GPU
    assert meter.read() == {"cpu": 0.0, "gpu": "nvmlDeviceGetTotalEnergyConsumption answered 3"}
    meter.close()


def test_of_several_processes_one_reads_and_other_machines_are_unknown(powercap):
    meter = Energy(world=World(size=4, local_size=2), powercap=powercap)
    assert energy_text(meter.read()) == "energy unknown in all (other machines: not read); cpu 0 kWh"
    assert Energy(world=World(rank=1, size=4, local_size=2), powercap=powercap).read() == {}
    meter.close()


def test_without_a_driver_there_is_no_counter(monkeypatch):
    monkeypatch.setattr(energy, "NVML", "libthere-is-none.so")
    with pytest.raises(UnreadableError, match=r"no libthere-is-none\.so"):
        Gpus(["GPU-a"])


def test_processes_are_added_up_and_one_that_is_unknown_makes_the_sum_unknown():
    whole = add_up([{"cpu": 3.6e6, "gpu": 1.8e6}, {"cpu": 1.8e6, "gpu": 1.8e6}])
    assert whole == {"cpu": 5.4e6, "gpu": 3.6e6}
    assert energy_text(whole) == "energy 2.5 kWh (cpu 1.5, gpu 1)"
    part = add_up([{"cpu": 1.0, "gpu": 3.6e6}, {"cpu": "no counter", "gpu": 3.6e6}, {"cpu": 2.0, "gpu": 0.0}])
    assert part["cpu"] == "no counter"
    assert kilowatt_hours(part) is None
    assert energy_text(part) == "energy unknown in all (cpu: no counter); gpu 2 kWh"
    assert kilowatt_hours(add_up([])) is None
