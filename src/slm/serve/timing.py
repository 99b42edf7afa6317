"""How fast files answer: each opened in a process of its own, cold and warm, in turns.

In: what opens each (`Opening`), one after the other and again, so that what else the machine does falls on all alike.
Out: per file the medians of its turns: seconds to open it and to the first token, cold (its pages dropped from the
cache, as far as the system does so; how much of it was still there is recorded) and warm; tokens a second of reading
a prompt and of answering; the peak memory of the process that holds it; joules a token where a counter can be read.
Beside the speeds stand their ratios to the first of the files, taken turn by turn: these hold on a machine that is
busy, or another one, where the speeds themselves do not.

Measured through the back ends that `slm chat` answers with, sampling greedily: llama.cpp's figures hold its server
and the loopback. Time to open begins after Python has imported what it needs.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import mmap
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.core.energy import Energy, Reading
from slm.core.errors import UserError
from slm.serve.config import ServeConfig, Timing

if TYPE_CHECKING:
    from slm.serve.engine import Backend

ENGINE = "slm.serve.timing:open_engine"
FIRST_TEXT_ID = 300
"""Random prompts hold no control tokens and no bytes, where the vocabulary is larger."""
QUESTION_TOKENS = 8
MOST_QUESTIONS = 16
RATES = ("prefill_tokens_per_second", "decode_tokens_per_second")
MOST_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Opening:
    """What is timed: `opener` ("module:function") makes a `Backend` of `path`, `tokenizer` and a `ServeConfig`."""

    path: Path
    opener: str = ENGINE
    tokenizer: str = ""

    @property
    def files(self) -> list[Path]:
        """What it reads."""
        inside = (file for file in self.path.rglob("*") if file.is_file())
        return [self.path] if self.path.is_file() else sorted(inside)


def time_all(
    openings: Mapping[str, Opening], timing: Timing, *, threads: int, vocab_size: int, context: int, seed: int,
    told: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """The figures of each; one that cannot be opened has the reason under `unknown` instead."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {name: {"cold": [], "warm": []} for name in openings}
    reasons: dict[str, str] = {}
    names = list(openings)
    for turn in range(timing.turns):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            opening = openings[name]
            for kind in ("cold", "warm"):
                cached = drop_cache(opening.files) if kind == "cold" else 1.0
                prompts = _prompts(timing, vocab_size, context, seed + turn)
                if name not in reasons:
                    one = _measure(opening, prompts, timing, threads)
                    reasons.update({name: one["unknown"]} if "unknown" in one else {})
                    found[name][kind].append({**one, "cached_share": cached})
            told()
    first = found[names[0]]
    return {
        name: {"unknown": reasons[name]} if name in reasons else _summary(rows, None if names[0] in reasons else first)
        for name, rows in found.items()
    }


def drop_cache(files: Sequence[Path]) -> float:
    """Ask the system to forget these files' pages; the share of them that it still holds."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    counts = [_resident_pages(file) for file in files]
    return sum(held for held, _ in counts) / max(1, sum(pages for _, pages in counts))


def open_engine(path: Path, tokenizer: str, config: ServeConfig) -> Backend:
    """Whatever `slm chat` opens."""
    from slm.recipe import Recipe
    from slm.serve.engine import Engine

    del tokenizer
    return Engine.open(str(path), Recipe(serve=config)).backend


def measure(backend: Backend, prompts: Sequence[Sequence[int]], answer_tokens: int) -> dict[str, Any]:
    """First token, speeds and joules of an open model; the first two prompts are long, the others questions."""
    greedy = ServeConfig(temperature=0.0, top_k=0, top_p=1.0)
    first, _, _ = _ask(backend, prompts[0], 1, greedy)
    prefill, _, _ = _ask(backend, prompts[1], 1, greedy)
    energy = Energy("cpu")
    tokens, seconds, whole = 0, 0.0, 0
    for prompt in prompts[2:]:
        _, answering, count = _ask(backend, prompt, answer_tokens, greedy)
        tokens, seconds, whole = tokens + max(0, count - 1), seconds + answering, whole + count
        if tokens >= answer_tokens:
            break
    reading = energy.read()
    energy.close()
    return {
        "first_token_seconds": first,
        "prefill_tokens_per_second": len(prompts[1]) / prefill,
        "decode_tokens_per_second": tokens / seconds if tokens and seconds else 0.0,
        "joules_per_token": _per_token(reading, whole),
    }


def main() -> None:
    """One process of `time_all`: what to measure as a JSON argument, figures as a line of JSON."""
    asked = json.loads(sys.argv[1])
    module, _, name = asked["opener"].partition(":")
    opener = getattr(importlib.import_module(module), name)
    if asked["path"].endswith(".gguf"):
        importlib.import_module("slm.serve.llama_backend")
    else:
        importlib.import_module("slm.serve.torch_backend")
    config = ServeConfig(threads=asked["threads"])
    try:
        began = time.perf_counter()
        backend = opener(Path(asked["path"]), asked["tokenizer"], config)
        load = time.perf_counter() - began
        found = measure(backend, asked["prompts"], asked["answer_tokens"])
        found.update(load_seconds=load, peak_bytes=_peak_bytes())
        backend.close()
    except UserError as error:
        found = {"unknown": str(error)}
    print(json.dumps(found))


def _measure(opening: Opening, prompts: list[list[int]], timing: Timing, threads: int) -> dict[str, Any]:
    asked = {
        **asdict(opening), "path": str(opening.path.absolute()), "prompts": prompts, "threads": threads,
        "answer_tokens": timing.answer_tokens,
    }  # fmt: skip
    command = [sys.executable, "-m", "slm.serve.timing", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=MOST_SECONDS)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return {"unknown": f"its process ended with status {done.returncode} ({said[-1][:200] if said else 'silent'})"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _prompts(timing: Timing, vocab_size: int, context: int, seed: int) -> list[list[int]]:
    """Two long prompts and questions, no two alike: engines keep what they have read."""
    draw = random.Random(seed)
    lengths = [min(timing.prompt_tokens, context // 2)] * 2 + [QUESTION_TOKENS] * MOST_QUESTIONS
    lowest = FIRST_TEXT_ID if vocab_size > 2 * FIRST_TEXT_ID else 4
    return [[1, *(draw.randrange(lowest, vocab_size) for _ in range(length - 1))] for length in lengths]


def _ask(backend: Backend, ids: Sequence[int], max_tokens: int, settings: ServeConfig) -> tuple[float, float, int]:
    """Seconds to the first piece, seconds from there to the end, and the number of tokens."""
    room = min(max_tokens, backend.context_tokens - len(ids))
    began, first = time.perf_counter(), 0.0
    pieces = backend.stream(ids, room, settings)
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            over = time.perf_counter() - began
            return first or over, over - (first or over), int(end.value[1])
        first = first or time.perf_counter() - began


def _summary(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], first: Mapping[str, Sequence[Mapping[str, Any]]] | None
) -> dict[str, Any]:
    both = [*rows["cold"], *rows["warm"]]
    found: dict[str, Any] = {
        f"{key}_{kind}": statistics.median(row[key] for row in rows[kind])
        for key in ("load_seconds", "first_token_seconds")
        for kind in ("cold", "warm")
    }
    for key in RATES:
        found[key] = statistics.median(row[key] for row in both)
        if first is not None:
            pairs = zip(both, [*first["cold"], *first["warm"]], strict=True)
            found[key.replace("_tokens_per_second", "_ratio")] = statistics.median(
                mine[key] / other[key] if other[key] else 0.0 for mine, other in pairs
            )
    joules = [row["joules_per_token"] for row in both]
    known = [value for value in joules if not isinstance(value, str)]
    found["joules_per_token"] = statistics.median(known) if len(known) == len(joules) else joules[0]
    found["peak_bytes"] = max(row["peak_bytes"] for row in both)
    found["cached_share_cold"] = statistics.median(row["cached_share"] for row in rows["cold"])
    return found


def _per_token(reading: Mapping[str, Reading], tokens: int) -> Reading:
    found = reading.get("cpu", "not read")
    return found if isinstance(found, str) else found / tokens if tokens else "no token"


def _peak_bytes() -> int:
    """The largest resident size that this process or one that it started has had, whichever is larger."""
    peaks = [_status_bytes(Path("/proc/self/status"))]
    for children in Path("/proc/self/task").glob("*/children"):
        peaks += [_status_bytes(Path(f"/proc/{child}/status")) for child in children.read_text("ascii").split()]
    return max(peaks)


def _status_bytes(status: Path) -> int:
    if not status.is_file():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next((line for line in status.read_text("utf-8").splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(line.split()[1]) * 1024


def _resident_pages(file: Path) -> tuple[int, int]:
    """Pages of a file that are in the cache, and all."""
    length = file.stat().st_size
    pages = -(-length // mmap.PAGESIZE)
    if not length:
        return 0, 0
    writable = mmap.PROT_READ | mmap.PROT_WRITE  # of a private mapping, which ctypes asks for
    with file.open("rb") as stream:
        held = (ctypes.c_ubyte * pages)()
        with mmap.mmap(stream.fileno(), length, flags=mmap.MAP_PRIVATE, prot=writable) as mapped:
            buffer = (ctypes.c_char * length).from_buffer(mapped)
            status = ctypes.CDLL(None).mincore(ctypes.byref(buffer), ctypes.c_size_t(length), held)
            del buffer
    return (pages if status else sum(page & 1 for page in held)), pages


if __name__ == "__main__":
    main()
