"""`train.profile=N`: where the time inside a step goes, operator by operator.

In: the loop's steps. Out, beside the metrics: `profile/step-00000003.trace.json` (open it in
https://ui.perfetto.dev or chrome://tracing) and `profile/operators.txt`, the operators that took most.
Two steps after the start of the process warm up, the next N are recorded. Off by default: recorded steps are
slower, and a trace holds tens of megabytes a step of a large model. It changes nothing of the results.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from slm.core.console import say

WARM_UP_STEPS = 2
TOP_OPERATORS = 30


@contextlib.contextmanager
def profiled(folder: Path, steps: int, first_step: int) -> Iterator[Callable[[], None]]:
    """Gives the function to call after each step; with no `steps` it does nothing."""
    if not steps:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    name = f"step-{first_step + WARM_UP_STEPS + 1:08d}.trace.json"

    def write(record: profile) -> None:
        (folder / "profile").mkdir(parents=True, exist_ok=True)
        record.export_chrome_trace(str(folder / "profile" / name))
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        operators = record.key_averages().table(sort_by=order, row_limit=TOP_OPERATORS)
        (folder / "profile" / "operators.txt").write_text(operators, encoding="utf-8")
        say(f"train: profile written to {folder / 'profile'}")

    plan = schedule(wait=0, warmup=WARM_UP_STEPS, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write, acc_events=True) as record:
        yield record.step
