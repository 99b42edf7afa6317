"""Stands for a process that trains: the same input, metrics and ends, from a formula instead of a model.

Held-out bits per byte are lowest at a learning rate of 0.01. At rates above 0.5 it fails, below 0.0002 it is killed.
It goes on from the metrics that are there, and with SLM_PRETEND_SECONDS takes so long for each measurement.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path


def leave_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


asked = json.loads(sys.stdin.readline())
threading.Thread(target=leave_with_parent, daemon=True).start()
recipe = asked["recipe"]
train, config = Path(recipe["runs_dir"], recipe["run"], "train"), recipe["train"]
lr, every, steps = config["optimizer"]["lr"], config["evaluate_every_steps"], config["tokens"] // config["batch_tokens"]
print(f"begun by {os.getpid()}", flush=True)
if lr > 0.5:
    print("error: train.optimizer.lr is too high; lower it\n")
    sys.exit(1)
if lr < 0.0002:
    os.kill(os.getpid(), signal.SIGKILL)
(train / "step-00000001").mkdir(parents=True, exist_ok=True)
metrics = train / "metrics.jsonl"
done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
with metrics.open("a") as stream:
    for number in range(done + 1, -(-steps // every) + 1):
        time.sleep(float(os.environ.get("SLM_PRETEND_SECONDS", "0")))
        step = min(number * every, steps)
        bits = 2 + (math.log10(lr) + 2) ** 2 + 1 / number
        row = {"kind": "evaluate", "step": step, "tokens": step * config["batch_tokens"], "bits_per_byte": bits}
        stream.write(json.dumps(row) + "\n")
        stream.flush()
