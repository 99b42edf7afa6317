"""`slm pick RUN`: which flavour of a model suits this machine, why, and the command that runs it.

In: the manifests of a run's export and compress stages (or of those artifacts), and what the machine offers. Out: one
flavour. A GPU that runs AWQ's kernels and holds the file gets it; else, of the files whose engine runs here, that fit
into free memory and cost at most `most=` bits per byte, the fastest where they were timed, the smallest else, since
an answer reads the whole file once a token. Nothing of torch is loaded, and no file of a model is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slm.core.console import say, size, table
from slm.core.errors import ProblemsError, UserError
from slm.core.flavours import CHECKPOINT, Flavour, flavours
from slm.core.machine import Machine, this_machine

USAGE = "usage: slm pick RUN [most=BITS_PER_BYTE], such as slm pick runs/ship most=0.02"
MOST = 0.05
"""Bits per byte that a flavour may cost unless the command says otherwise."""
AWQ_COMPUTE = 7.5
"""Least compute capability of the AWQ kernels in vLLM (its table of supported hardware: Turing)."""
ROOM = 1.5
"""Memory beside the file, as a multiple of it, where its peak was not measured: caches and the engine."""
ENGINE_BYTES = 200_000_000
"""And what an engine takes whatever the file."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is recommended."""

    flavour: Flavour
    reason: str
    command: str
    passed_over: tuple[tuple[str, str], ...]
    """The other flavours, each with why not."""


def pick(arguments: Sequence[str]) -> None:
    """Print the recommendation."""
    places = [word for word in arguments if "=" not in word]
    settings = dict(word.split("=", 1) for word in arguments if "=" in word)
    try:
        most = float(settings.pop("most", MOST))
    except ValueError as error:
        raise ProblemsError([f"most takes a number of bits per byte; {USAGE}"]) from error
    if not places or settings:
        raise ProblemsError([USAGE])
    machine = this_machine()
    say(f"this machine: {machine.described}")
    choice = choose(flavours([Path(place) for place in places]), machine, most)
    table("Passed over", ("flavour", "why"), choice.passed_over)
    say(f"pick: {choice.flavour.name} ({size(choice.flavour.size_bytes)}): {choice.reason}")
    say(f"  {choice.command}")


def choose(found: Sequence[Flavour], machine: Machine, most: float) -> Choice:
    """The flavour for a machine; `UserError` where none runs on it."""
    reasons = {one.name: _hindrance(one, machine, most) for one in found}
    fit = [one for one in found if not reasons[one.name]]
    if not fit:
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UserError(f"no flavour suits this machine ({listed}); export another format, or raise most=")
    on_gpu = [one for one in fit if _kind(one) in ("awq", "hf") and machine.gpu]
    if on_gpu:
        best = min(on_gpu, key=lambda one: one.size_bytes)
        reason = f"{machine.gpu} runs it, and it is the smallest that does"
    else:
        timed = [one for one in fit if one.timed is not None]
        if timed:
            best = max(timed, key=_decode)
            reason = (
                f"the fastest answer of those timed that cost at most {most:g} bits per byte and fit into "
                f"{size(machine.memory_bytes)} ({_decode(best):,.0f} tokens/s where they were timed)"
            )
        else:
            best = min(fit, key=lambda one: one.size_bytes)
            reason = f"the smallest that costs at most {most:g} bits per byte; none was timed"
    others = tuple((one.name, reasons[one.name] or f"{best.name} is preferred") for one in found if one is not best)
    return Choice(best, reason, _command(best), others)


def _hindrance(one: Flavour, machine: Machine, most: float) -> str:
    """Why a flavour does not suit the machine; empty if it does."""
    kind, sets = _kind(one), machine.instruction_sets
    if kind not in ("hf", "awq", "gguf", "onnx"):
        return "no file to run: it is what exports are made from"
    if one.cost is not None and one.cost["increase"] > most:
        return f"costs {one.cost['increase']:.3g} bits per byte, more than {most:g}"
    needed = one.timed["peak_bytes"] if one.timed else round(ROOM * one.size_bytes) + ENGINE_BYTES
    free = machine.gpu_memory_bytes if kind in ("awq", "hf") and machine.gpu else machine.memory_bytes
    if needed > free:
        return f"needs {size(needed)} of memory, {size(free)} are free"
    if kind == "awq" and machine.gpu_compute < AWQ_COMPUTE:
        found = f"compute capability {machine.gpu_compute:g}" if machine.gpu else "there is none"
        return f"its kernels need a GPU of compute capability {AWQ_COMPUTE} or more; {found}"
    if kind == "gguf" and machine.architecture == "x86_64" and "avx2" not in sets:
        return "llama.cpp's wheel needs AVX2"
    if one.name.endswith("onnx_int8") and not {"vnni", "amx", "dotprod"} & set(sets):
        return "its integer products are slow without VNNI, AMX or NEON's dot product"
    return ""


def _kind(one: Flavour) -> str:
    return one.name.rpartition(": ")[2].partition("_")[0] if not one.name.endswith(CHECKPOINT) else CHECKPOINT


def _decode(one: Flavour) -> float:
    return float(one.timed["decode_tokens_per_second"]) if one.timed else 0.0


def _command(one: Flavour) -> str:
    return f"vllm serve {one.path}" if _kind(one) == "awq" else f"slm chat serve.model={one.path}"
