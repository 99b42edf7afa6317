"""Malformed GGUF, safetensors, manifest and model files against the readers that must refuse them by one sentence.

    python scripts/fuzz_readers.py [--cases 100000] [--seed 1] [--only gguf,safetensors,manifest,model]

Whole files are damaged (bits, lengths, counts, cuts, insertions; for JSON also keys, types, nesting, with a checksum
that fits again) and opened as chat, verify, lineage and export open them. A finding is a case that ends by anything but
an answer or the project's own error: another exception, more than 2 s, more than 512 MB, a crash of the process. GGUF
files that our reader takes for whole are held against gguf-py's. A case is a function of target, seed and number.

Each target runs in a process of its own; one that dies or stops is a finding, and the next case goes on in a new one.
The last line is one JSON object; the status is 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("fuzz_readers_cases.py")
SHARES = {"gguf": 0.4, "safetensors": 0.25, "manifest": 0.25, "model": 0.1}
START_SECONDS, SILENT_SECONDS = 600.0, 60.0
"""A process that has begun no case, or is under way with one, for so long is stuck where no signal reaches it."""


def main() -> None:
    """Run the cases, print what was found, leave with a status."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(SHARES), help=f"targets, of {', '.join(SHARES)}")
    args = parser.parse_args()
    targets = args.only.split(",")
    total = sum(SHARES[target] for target in targets)
    found: dict[str, Any] = {}
    for target in targets:
        found[target] = fuzz(target, args.seed, round(args.cases * SHARES[target] / total))
        show(target, found[target])
    findings = sum(len(of_target["findings"]) for of_target in found.values())
    cases = sum(of_target["cases"] for of_target in found.values())
    seconds = round(sum(of_target["seconds"] for of_target in found.values()), 1)
    print(json.dumps({"cases": cases, "seconds": seconds, "findings": findings, "seed": args.seed}))
    raise SystemExit(1 if findings else 0)


def fuzz(target: str, seed: int, cases: int, worker: Path = WORKER) -> dict[str, Any]:
    """All cases of one target, in as many processes as it takes."""
    counts: Counter[str] = Counter()
    findings: list[dict[str, Any]] = []
    start, first, slowest = time.monotonic(), 0, 0.0
    while first < cases:
        with tempfile.TemporaryDirectory() as folder:
            lines, problem = run(worker, [target, str(seed), str(first), str(cases - first), folder])
            case = Path(folder) / "case"
            if problem and not case.is_file():
                raise SystemExit(f"{target} did not start:\n{problem}")
            last = int(case.read_text(encoding="ascii"))
        for line in lines:
            if "counts" in line:
                counts.update(line["counts"])
                slowest = max(slowest, line["slowest_seconds"])
            else:
                findings.append(line)
        if problem:
            findings.append({"case": last, "kind": "process", "where": problem[-300:]})
            counts["unknown"] += last - first
        first = last + 1
    return {
        "cases": cases, "counts": dict(counts), "findings": findings, "slowest_seconds": round(slowest, 3),
        "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip


def run(worker: Path, words: list[str]) -> tuple[list[dict[str, Any]], str]:
    """The lines that a worker printed, and what ended it before its time."""
    under_way = Path(words[-1]) / "case"
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen([sys.executable, worker, *words], stdout=out, stderr=complaints)
        problem = _watch(process, under_way)
        out.seek(0)
        complaints.seek(0)
        lines = [json.loads(line) for line in out.read().splitlines() if line.startswith(b"{")]
        if not problem and process.returncode:
            problem = f"status {process.returncode}: {complaints.read().decode(errors='replace')[-2000:]}"
    return lines, problem


def _watch(process: subprocess.Popen[bytes], under_way: Path) -> str:
    """Wait for a process as long as it goes from case to case."""
    before, since = b"", time.monotonic()
    while True:
        try:
            process.wait(0.5)
            return ""
        except subprocess.TimeoutExpired:
            now = under_way.read_bytes() if under_way.is_file() else b""
        if now != before:
            before, since = now, time.monotonic()
        elif time.monotonic() - since > (SILENT_SECONDS if now else START_SECONDS):
            process.kill()
            process.wait()
            return "stuck"


def show(target: str, found: dict[str, Any]) -> None:
    """One line a target, and one a finding, equal ones together."""
    counts = ", ".join(f"{number:,} {kind}" for kind, number in found["counts"].items())
    print(
        f"{target:>12}: {found['cases']:,} cases in {found['seconds']:,} s (slowest {found['slowest_seconds']} s): "
        f"{counts}, {len(found['findings'])} findings",
        flush=True,
    )
    alike: dict[tuple[str, str], list[int]] = {}
    for finding in found["findings"]:
        alike.setdefault((finding["kind"], finding["where"][:120]), []).append(finding["case"])
    for (kind, where), cases in sorted(alike.items(), key=lambda item: -len(item[1])):
        print(f"{'':>14}{len(cases):,} x {kind} {where} (case {cases[0]})")


if __name__ == "__main__":
    main()
