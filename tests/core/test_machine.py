"""The machine from files that look like the kernel's, and from a program that looks like NVIDIA's."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm.core.machine import this_machine


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some CPU\n"
        "flags\t\t: fpu avx2 avx512f avx512_vnni avx_vnni amx_tile\n\nprocessor\t: 1\nflags\t\t: other\n"
    )
    (tmp_path / "meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable:    8000000 kB\n")
    return tmp_path


def smi(folder: Path, line: str, status: int = 0) -> str:
    program = folder / "smi"
    program.write_text(f"#!/bin/sh\necho '{line}'\nexit {status}\n")
    program.chmod(0o755)
    return str(program)


def test_instruction_sets_memory_and_no_gpu(proc: Path) -> None:
    found = this_machine(proc, proc / "none", "no-such-program")
    assert found.instruction_sets == ("avx2", "avx512", "vnni", "amx")
    assert found.memory_bytes == 8_000_000 * 1024
    assert (found.gpu, found.gpu_compute) == ("", 0)
    assert "no NVIDIA GPU" in found.described


def test_a_container_has_no_more_than_its_limit(proc: Path) -> None:
    (proc / "limit").write_text("1000000\n")
    assert this_machine(proc, proc / "limit", "no-such-program").memory_bytes == 1_000_000
    (proc / "limit").write_text("max\n")
    assert this_machine(proc, proc / "limit", "no-such-program").memory_bytes == 8_000_000 * 1024


def test_a_gpu_is_asked_of_its_driver(proc: Path) -> None:
    found = this_machine(proc, proc / "none", smi(proc, "NVIDIA L4, 23034, 8.9"))
    assert (found.gpu, found.gpu_memory_bytes, found.gpu_compute) == ("NVIDIA L4", 23034 << 20, 8.9)
    assert "compute capability 8.9" in found.described
    assert this_machine(proc, proc / "none", smi(proc, "NVIDIA-SMI has failed", 9)).gpu == ""


def test_arm_names_its_sets_otherwise(proc: Path) -> None:
    (proc / "cpuinfo").write_text("Features\t: fp asimd asimddp i8mm\n")
    assert this_machine(proc, proc / "none", "none").instruction_sets == ("neon", "dotprod", "i8mm")


def test_this_machine_has_cores_and_memory() -> None:
    found = this_machine()
    assert found.cores >= 1
    assert found.memory_bytes > 10**8
