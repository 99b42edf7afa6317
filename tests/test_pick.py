"""Which flavour suits which machine."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from slm import cli
from slm.core.errors import ProblemsError, UserError
from slm.core.flavours import Flavour, flavours
from slm.core.machine import Machine
from slm.pick import choose
from tests.shipped import flavour, publish_run

LAPTOP = Machine("some", "x86_64", 4, ("avx2",), 8_000_000_000)
SERVER = replace(LAPTOP, instruction_sets=("avx2", "avx512", "vnni"))
GPU = replace(LAPTOP, gpu="NVIDIA L4", gpu_memory_bytes=24_000_000_000, gpu_compute=8.9)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return publish_run(
        tmp_path / "ship",
        {
            "hf": flavour(60_000_000, 0.0, 100, "hf"),
            "gguf_q8_0": flavour(16_000_000, 0.001, 250, "model-q8_0.gguf"),
            "gguf_q4_0": flavour(9_000_000, 0.08, 400, "model-q4_0.gguf"),
            "awq": flavour(20_000_000, 0.01, None, "awq") | {"speed": {"unknown": "needs a GPU"}},
            "onnx_int8": flavour(17_000_000, 0.002, 300, "model.int8.onnx"),
        },
    )


@pytest.fixture
def found(run: Path) -> list[Flavour]:
    return flavours([run])


def test_the_fastest_that_is_good_enough_is_taken(found: list[Flavour]) -> None:
    choice = choose(found, LAPTOP, 0.05)
    assert choice.flavour.name == "gguf_q8_0"
    assert choice.command.endswith("model-q8_0.gguf")
    assert "250 tokens/s" in choice.reason
    why = dict(choice.passed_over)
    assert why["gguf_q4_0"] == "costs 0.08 bits per byte, more than 0.05"
    assert why["onnx_int8"] == "its integer products are slow without VNNI, AMX or NEON's dot product"
    assert why["awq"].endswith("there is none")
    assert why["checkpoint"].startswith("no file to run")
    assert why["hf"] == "gguf_q8_0 is preferred"
    assert choose(found, LAPTOP, 0.1).flavour.name == "gguf_q4_0"


def test_instruction_sets_decide_which_engines_run_or_are_worth_it(found: list[Flavour]) -> None:
    assert choose(found, SERVER, 0.05).flavour.name == "onnx_int8"
    old = choose(found, replace(LAPTOP, instruction_sets=()), 0.05)
    assert old.flavour.name == "hf"
    assert dict(old.passed_over)["gguf_q8_0"] == "llama.cpp's wheel needs AVX2"
    arm = replace(LAPTOP, architecture="aarch64", instruction_sets=("neon",))
    assert choose(found, arm, 0.05).flavour.name == "gguf_q8_0"


def test_a_gpu_gets_awq_where_it_has_the_kernels(found: list[Flavour]) -> None:
    choice = choose(found, GPU, 0.05)
    assert (choice.flavour.name, choice.command.split()[:2]) == ("awq", ["vllm", "serve"])
    old = choose(found, replace(GPU, gpu_compute=6.1), 0.05)
    assert old.flavour.name == "hf"
    assert "compute capability 6.1" in dict(old.passed_over)["awq"]


def test_what_does_not_fit_into_memory_is_passed_over(found: list[Flavour]) -> None:
    with pytest.raises(UserError, match=r"no flavour suits this machine .*needs 50\.0 MB of memory, 40\.0 MB are free"):
        choose(found, replace(LAPTOP, memory_bytes=40_000_000), 0.05)


def test_without_speeds_the_smallest_that_is_good_enough_is_taken(tmp_path: Path) -> None:
    untimed = {"gguf_f16": flavour(30_000_000, 0.0, None), "gguf_q4_0": flavour(9_000_000, 0.01, None)}
    choice = choose(flavours([publish_run(tmp_path / "ship", untimed)]), LAPTOP, 0.05)
    assert choice.flavour.name == "gguf_q4_0"
    assert "none was timed" in choice.reason


def test_the_command_prints_machine_reason_and_what_to_type(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.dispatch(["pick", str(run), "most=0.5"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("this machine: ")
    assert any(line.startswith("pick: ") for line in printed)
    for wrong in ([], [str(run), "most=little"], [str(run), "size=small"]):
        with pytest.raises(ProblemsError, match=r"slm pick RUN"):
            cli.dispatch(["pick", *wrong])


def test_nothing_heavy_is_loaded_to_pick(run: Path) -> None:
    program = (
        "import sys; from slm import cli; cli.dispatch(['pick', sys.argv[1]])\n"
        "print([name for name in ('torch', 'numpy', 'transformers', 'gguf', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
