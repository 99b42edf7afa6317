"""What a machine offers a model: instruction sets, memory, a GPU. Read without torch, in milliseconds.

In: /proc (Linux), `platform` elsewhere, and `nvidia-smi` where there is one. Out: a `Machine`. Memory is what is free
for a new program, within the limit of the container.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from slm.core.provenance import processor_name

FLAGS = {
    "avx2": "avx2", "avx512f": "avx512", "avx512_vnni": "vnni", "avx_vnni": "vnni", "avx512_bf16": "avx512_bf16",
    "amx_tile": "amx", "asimd": "neon", "asimddp": "dotprod", "i8mm": "i8mm",
}  # fmt: skip
"""The kernel's names of what makes a difference to small models, and what tables call it."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
QUERY = ["--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine; without a GPU its fields are empty."""

    cpu: str
    architecture: str
    """`x86_64`, `aarch64`, `arm64`."""
    cores: int
    instruction_sets: tuple[str, ...]
    memory_bytes: int
    gpu: str = ""
    gpu_memory_bytes: int = 0
    gpu_compute: float = 0.0
    """NVIDIA's compute capability, such as 8.9."""

    @property
    def described(self) -> str:
        """One line for people."""
        sets = ", ".join(self.instruction_sets) or "no known instruction sets"
        gpu = f"{self.gpu}, {self.gpu_memory_bytes / 1e9:.0f} GB, compute capability {self.gpu_compute:g}"
        return (
            f"{self.cpu} ({self.architecture}, {self.cores} cores, {sets}), {self.memory_bytes / 1e9:.1f} GB of memory "
            f"free, {gpu if self.gpu else 'no NVIDIA GPU'}"
        )


def this_machine(proc: Path = Path("/proc"), limit: Path = CGROUP_LIMIT, smi: str = "nvidia-smi") -> Machine:
    """The machine that this runs on."""
    architecture = platform.machine()
    flags = _words(proc / "cpuinfo", ("flags", "Features"))
    sets = tuple(dict.fromkeys(name for flag, name in FLAGS.items() if flag in flags))
    if not sets and architecture == "arm64":  # Apple's have no /proc
        sets = ("neon", "dotprod")
    return Machine(
        processor_name(), architecture, os.cpu_count() or 1, sets, _free_memory(proc / "meminfo", limit), *_gpu(smi)
    )


def _words(file: Path, keys: tuple[str, ...]) -> set[str]:
    """What stands behind the first line that begins with one of `keys`."""
    if not file.is_file():
        return set()
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return set(next((line.partition(":")[2] for line in lines if line.startswith(keys)), "").split())


def _free_memory(meminfo: Path, limit: Path) -> int:
    found = [word for word in _words(meminfo, ("MemAvailable",)) if word.isdigit()]
    free = int(found[0]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = limit.read_text(encoding="ascii").strip() if limit.is_file() else ""
    return min(free, int(allowed)) if allowed.isdigit() else free


def _gpu(smi: str) -> tuple[str, int, float]:
    if shutil.which(smi) is None:
        return "", 0, 0.0
    done = subprocess.run([smi, *QUERY], capture_output=True, text=True, check=False, timeout=20)
    parts = [part.strip() for part in done.stdout.partition("\n")[0].split(",")]
    if done.returncode or len(parts) != 3 or not parts[1].isdigit():
        return "", 0, 0.0
    return parts[0], int(parts[1]) << 20, float(parts[2])
