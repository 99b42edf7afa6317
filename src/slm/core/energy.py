"""What a run drew from the socket, as far as counters say; where none can be read it is unknown, never estimated.

In: the processor's RAPL counters under /sys/class/powercap (Intel and AMD; since 2020 most systems let only root
read them) and a GPU's own counter through NVML, the library of NVIDIA's driver. Out: joules since the meter was
made, for `cpu` and for `gpu`, or in place of a number the reason why there is none.

RAPL counts whole sockets and the memory behind them, whoever uses them, and starts again from 0 after as little
as 65 kJ: 5 minutes at 200 W. So a thread reads it every 10 s; after a gap in which a socket of 1 kW could have
come round unseen the figure is unknown. Disks, fans and power supplies are not counted.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slm.core.distributed import SOLO, World

POWERCAP = Path("/sys/class/powercap")
READ_EVERY_SECONDS = 10.0
MOST_WATTS = 1000.0
"""More than any socket draws: what decides whether a counter may have come round unseen."""
NVML = "libnvidia-ml.so.1"

Reading = float | str
"""Joules, or the reason why they are unknown."""


class UnreadableError(Exception):
    """No counter, or one that may not be read; the text says which."""


class Sockets:
    """The RAPL zones of this machine: its packages, and the memory controllers that these leave out."""

    def __init__(self, folder: Path = POWERCAP) -> None:
        zones = sorted(folder.glob("intel-rapl:*")) if folder.is_dir() else []  # AMD's bear the name too
        self._zones = [zone for zone in zones if _text(zone / "name").startswith(("package", "dram"))]
        if not self._zones:
            raise UnreadableError(f"no RAPL counter in {folder}")
        self._ranges = [_microjoules(zone / "max_energy_range_uj") for zone in self._zones]
        self._last = [_microjoules(zone / "energy_uj") for zone in self._zones]
        self._read_at = time.monotonic()
        self._total = 0

    def joules(self) -> float:
        """Since it was made; to be asked before a counter can have come round twice."""
        before, self._read_at = self._read_at, time.monotonic()
        gap = self._read_at - before
        if gap * MOST_WATTS * 1e6 > min(self._ranges):
            raise UnreadableError(f"a RAPL counter was left alone for {gap:.0f} s and may have come round")
        counts = [_microjoules(zone / "energy_uj") for zone in self._zones]
        for count, last, most in zip(counts, self._last, self._ranges, strict=True):
            self._total += count - last + (most if count < last else 0)
        self._last = counts
        return self._total / 1e6


class Gpus:
    """NVIDIA's counters of these GPUs, millijoules since the driver was loaded."""

    def __init__(self, uuids: Sequence[str], library: Any = None) -> None:
        try:
            self._library = library or ctypes.CDLL(NVML)
        except OSError as error:
            raise UnreadableError(f"no {NVML}") from error
        self._ask("nvmlInit_v2")
        self._handles = [ctypes.c_void_p() for _ in uuids]
        for uuid, handle in zip(uuids, self._handles, strict=True):
            self._ask("nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(handle))
        self._first = self._millijoules()

    def joules(self) -> float:
        """Since it was made."""
        return (self._millijoules() - self._first) / 1e3

    def _millijoules(self) -> int:
        total, count = 0, ctypes.c_ulonglong()
        for handle in self._handles:
            self._ask("nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.byref(count))
            total += count.value
        return total

    def _ask(self, function: str, *arguments: object) -> None:
        if status := getattr(self._library, function)(*arguments):
            raise UnreadableError(f"{function} answered {status}")


class Energy:
    """The counters of this machine, those that there are; read by a thread of its own until closed.

    Of several processes the leader reads for all on its machine; what other machines draw is unknown to it.
    """

    def __init__(
        self, device: str = "cpu", world: World = SOLO, powercap: Path = POWERCAP, library: Any = None
    ) -> None:
        self._counters: dict[str, Sockets | Gpus] = {}
        self._found: dict[str, Reading] = {}
        self._lock, self._closed = threading.Lock(), threading.Event()
        if not world.leader:
            return
        self._open("cpu", lambda: Sockets(powercap))
        if device == "cuda":
            self._open("gpu", lambda: Gpus(visible_gpus(world.local_size), library))
        if world.size > world.local_size:
            self._found["other machines"] = "not read"
        if "cpu" in self._counters:
            threading.Thread(target=self._keep_reading, name="energy", daemon=True).start()

    def read(self) -> dict[str, Reading]:
        """Joules by part since the meter was made, or why they are unknown."""
        with self._lock:
            for name, counter in list(self._counters.items()):
                try:
                    self._found[name] = counter.joules()
                except UnreadableError as error:  # what has been missed stays missed
                    self._found[name] = str(error)
                    del self._counters[name]
            return dict(self._found)

    def close(self) -> None:
        """Let the thread end."""
        self._closed.set()

    def _keep_reading(self) -> None:
        while not self._closed.wait(READ_EVERY_SECONDS):
            self.read()

    def _open(self, name: str, counter: Callable[[], Sockets | Gpus]) -> None:
        try:
            self._counters[name] = counter()
            self._found[name] = 0.0
        except UnreadableError as error:
            self._found[name] = str(error)


def visible_gpus(processes: int) -> list[str]:
    """NVML's names of the GPUs that as many processes of this machine compute on."""
    import torch

    numbers = range(processes) if processes > 1 else [torch.cuda.current_device()]
    return [f"GPU-{torch.cuda.get_device_properties(number).uuid}" for number in numbers]


def add_up(readings: Sequence[Mapping[str, Reading]]) -> dict[str, Reading]:
    """Joules by part over several processes; what is unknown of one of them is unknown of all."""
    total: dict[str, Reading] = {}
    for reading in readings:
        for part, found in reading.items():
            before = total.get(part, 0.0)
            total[part] = before if isinstance(before, str) else found if isinstance(found, str) else before + found
    return total


def kilowatt_hours(reading: Mapping[str, Reading]) -> float | None:
    """All parts together; None if one of them is unknown, or there is none."""
    known = [joules for joules in reading.values() if not isinstance(joules, str)]
    return sum(known) / 3.6e6 if known and len(known) == len(reading) else None


def energy_text(reading: Mapping[str, Reading]) -> str:
    """`energy 1.23 kWh (cpu 0.23, gpu 1.00)`; `energy unknown: ...`; what is known of it where a part is not."""
    parts = {part: f"{found / 3.6e6:.3g}" for part, found in reading.items() if not isinstance(found, str)}
    reasons = [f"{part}: {found}" for part, found in reading.items() if isinstance(found, str)]
    if not parts:
        return f"energy unknown: no readable counter ({'; '.join(reasons) or 'none was looked for'})"
    listed = ", ".join(f"{part} {value}" for part, value in parts.items())
    if reasons:
        return f"energy unknown in all ({'; '.join(reasons)}); {listed} kWh"
    return f"energy {kilowatt_hours(reading):.3g} kWh ({listed})"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError as error:
        raise UnreadableError(f"{file} is not readable ({error.strerror})") from error


def _microjoules(file: Path) -> int:
    try:
        return int(_text(file))
    except ValueError as error:
        raise UnreadableError(f"{file} holds no number") from error
