"""Time to a loss: this project's training against a plain transformers loop, on the same rows.

In: a text file of WikiText-2 (`= Title =` lines begin articles). Out: a table, a figure and one JSON object as
the last line. All runs have the shape of configs/model/15m.yaml at rows of 512 tokens, the same tokenizer, the same
packed rows in the same order, the same steps of 4,096 positions, the same threads, and are judged on the same
held-out rows; their clock runs from the start of the process, imports and evaluations included.

- ours: `python -m slm.train`, Muon and AdamW, its schedule ending at half the time;
- transformers fp32 and bf16 (autocast): LlamaForCausalLM, its own initial weights, fused AdamW, clipping at 1, 5 %
  warm-up and cosine to a tenth over the whole time. Its learning rate is the best of `RATES` in pilots of a tenth
  of the time (half a minute at least), under bf16. Its rows are not masked by document, as in a plain loop.

The runs take turns of some seconds (the others are stopped meanwhile), so that whatever else the machine does
weighs on all alike. The plain loops' last evaluation is not on their clock. `--check` ends with status 1 unless ours
comes, in at most half of the time, to the loss that the better of the other two reaches in all of it.

    python scripts/bench_time_to_loss.py --text ../shared/data/wikitext-2/train.txt --minutes 10 --check
"""

from __future__ import annotations

import argparse
import json
import math
import mmap
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STEP_TOKENS, ROW_TOKENS, MICRO_ROWS = 4096, 512, 8
RATES = (2e-3, 4e-3, 8e-3)
"""Peak learning rates that the plain loop may choose from."""
OPTIMIZER = {"kind": "muon", "muon_lr": 0.02, "lr": 0.01, "weight_decay": 0.0}
"""Ours, as recipes/quickstart found it good at a quarter of this size; not tuned on this text."""
TURN_SECONDS = 4.0
EVALUATIONS, EVALUATED_ROWS = 10, 24
SHORTEST_PILOT_MINUTES = 0.5
"""Below it, starting takes most of it."""
ARTICLE = re.compile(r"^ = [^=].* = $", re.MULTILINE)


@dataclass
class Contender:
    """One process that trains, and what it has reported."""

    name: str
    command: list[str]
    folder: Path
    """Where its clock and its log lie."""
    metrics: Path
    """Where it writes its rows."""
    minutes: float
    """After so much time of its own it is ended, if it has not."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Held-out losses, `{"seconds", "tokens", "loss"}`, by the process's own time."""
    seconds: float = 0.0
    process: subprocess.Popen[bytes] | None = None
    clock: mmap.mmap | None = None

    def start(self) -> None:
        """Start the process, stopped until its first turn."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "clock").write_bytes(struct.pack("d", 0.0))
        with (self.folder / "clock").open("r+b") as stream:
            self.clock = mmap.mmap(stream.fileno(), 8)
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True, stdin=subprocess.DEVNULL
            )
        self._signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> bool:
        """Let it run for `seconds`; False once it has ended or used up its time."""
        assert self.process is not None
        self._signal(signal.SIGCONT)
        began = last = time.perf_counter()
        while self.process.poll() is None and last - began < seconds and self.seconds < self.minutes * 60:
            time.sleep(0.02)
            now = time.perf_counter()
            self.seconds += now - last
            last = now
            self._tick()
        self._signal(signal.SIGSTOP)
        if self.process.poll() is None and self.seconds < self.minutes * 60:
            return True
        self._end()
        return False

    def _tick(self) -> None:
        assert self.clock is not None
        struct.pack_into("d", self.clock, 0, self.seconds)
        if not self.metrics.exists():
            return
        lines = self.metrics.read_text(encoding="utf-8").split("\n")[:-1]
        found = [row for row in map(json.loads, lines) if row["kind"] == "evaluate"]
        for row in found[len(self.rows) :]:
            seconds = row.get("trained_seconds", self.seconds)
            self.rows.append({"seconds": seconds, "tokens": row["tokens"], "loss": row["loss"]})

    def _end(self) -> None:
        assert self.process is not None
        status = self.process.poll()
        self._tick()
        if status is None:
            self._signal(signal.SIGKILL)
        elif status:
            sys.exit(f"{self.name} ended with status {status}:\n{(self.folder / 'log').read_text()[-2000:]}")
        self.process.wait()

    def _signal(self, number: int) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)


def take_turns(contenders: list[Contender]) -> None:
    """Run all to their ends, one at a time."""
    turn = min(TURN_SECONDS, max(contender.minutes for contender in contenders) * 6)
    for contender in contenders:
        contender.start()
    going = list(contenders)
    try:
        while going:
            going = [contender for contender in going if contender.turn(turn)]
            report = ", ".join(
                f"{c.name} {c.seconds / 60:.1f} min {c.rows[-1]['loss']:.3f}" for c in contenders if c.rows
            )
            print(f"\r{report}", end="", file=sys.stderr, flush=True)
    finally:
        print(file=sys.stderr)
        for contender in contenders:
            if contender.process is not None and contender.process.poll() is None:
                os.killpg(contender.process.pid, signal.SIGKILL)


def prepare(text: Path, out: Path, threads: int) -> list[str]:
    """Make corpus, tokenizer and shards of the articles in `text`; returns the words that name this run's recipe."""
    content = text.read_text(encoding="utf-8")
    starts = [match.start() for match in ARTICLE.finditer(content)] or [0]
    articles = [content[a:b].strip() for a, b in zip(starts, [*starts[1:], len(content)], strict=True)]
    out.mkdir(parents=True, exist_ok=True)
    documents = out / "articles.jsonl"
    lines = "".join(json.dumps({"text": article}) + "\n" for article in articles)
    if not documents.exists() or documents.read_text(encoding="utf-8") != lines:  # a new file would be new data
        documents.write_text(lines, encoding="utf-8")
    words = [
        "recipe=pretrain_15m", f"runs_dir={out / 'runs'}", "run=ours", f"train.threads={threads}", "train.device=cpu",
        f"corpus.sources=[{{kind: jsonl, path: {documents}, licence: CC-BY-SA-3.0, origin: WikiText-2}}]",
        "corpus.validation_fraction=0.05", f"shards.seq_len={ROW_TOKENS}",
        f"train.batch_tokens={STEP_TOKENS}", f"train.micro_batch_rows={MICRO_ROWS}",
        f"train.evaluate_rows={EVALUATED_ROWS}", "train.sample_prompts=[]", "train.log_every_steps=5",
        "train.save_every_steps=1000000",
        "train.schedule.decay_fraction=0.6", *(f"train.optimizer.{key}={value}" for key, value in OPTIMIZER.items()),
    ]  # fmt: skip
    command = [sys.executable, "-m", "slm.pipeline", *words, "to=shards", "train.schedule.warmup_tokens=1"]
    if status := subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode:
        sys.exit(status)
    return words


def ours(words: list[str], out: Path, name: str, minutes: float, tokens: int, evaluations: int) -> Contender:
    """The project's own training over `tokens`, in a run folder of its own."""
    steps = math.ceil(tokens / STEP_TOKENS)
    made = out / "runs" / "ours"
    shutil.rmtree(out / "runs" / name, ignore_errors=True)
    command = [
        sys.executable, "-m", "slm.train", *(word for word in words if not word.startswith("run=")), f"run={name}",
        f"artifacts.shards={made / 'shards'}", f"artifacts.tokenizer={made / 'tokenizer'}",
        f"train.tokens={tokens}", f"train.schedule.warmup_tokens={tokens // 50}",
        f"train.evaluate_every_steps={max(1, steps // evaluations) if evaluations else 0}",
    ]  # fmt: skip
    return Contender("ours", command, out / name, out / "runs" / name / "train" / "metrics.jsonl", minutes)


def plain(kind: str, words: list[str], out: Path, lr: float, minutes: float, threads: int) -> Contender:
    """A plain transformers loop in fp32 or bf16."""
    folder = out / f"transformers-{kind}-{lr:g}-{minutes:g}"
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    settings = {"kind": kind, "words": words, "lr": lr, "seconds": minutes * 60, "folder": str(folder)}
    command = [sys.executable, str(Path(__file__).resolve()), "--loop", json.dumps(settings | {"threads": threads})]
    return Contender(f"transformers {kind}", command, folder, folder / "metrics.jsonl", minutes * 1.1 + 1)


def plain_loop(settings: dict[str, Any]) -> None:
    """What a user of transformers writes: batches in, loss, backward, clip, AdamW, by the clock of its own turns."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig

    from slm.compose import load_recipe
    from slm.core.artifact import open_artifact
    from slm.model.hugging_face import hf_config
    from slm.shards.loader import Loader, collate
    from slm.shards.reader import ShardReader

    torch.set_num_threads(settings["threads"])
    folder = Path(settings["folder"])
    recipe = load_recipe(*settings["words"])
    shards = open_artifact(recipe.folder("shards"), "shards")
    loader = Loader(
        shards, batch_rows=STEP_TOKENS // ROW_TOKENS, micro_batch_rows=STEP_TOKENS // ROW_TOKENS, seed=recipe.seed
    )
    held_out = ShardReader(shards, "validation")
    rows = list(range(min(EVALUATED_ROWS, held_out.num_rows)))
    pieces = [
        collate(*held_out.rows(rows[i : i + MICRO_ROWS]), held_out.pad_id) for i in range(0, len(rows), MICRO_ROWS)
    ]
    torch.manual_seed(recipe.seed)
    shape: PreTrainedConfig = LlamaConfig(**hf_config(recipe.model) | {"use_cache": False})
    model = LlamaForCausalLM(shape)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings["lr"], betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    bf16 = torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings["kind"] == "bf16")
    stream = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def passed() -> float:
        return float(struct.unpack("d", (folder / "clock").read_bytes())[0]) / settings["seconds"]

    def loss_of(batch: Any, reduction: str) -> torch.Tensor:
        with bf16:
            logits = model(input_ids=batch.tokens_BT).logits.float()
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=-100, reduction=reduction
        )

    tokens = evaluated = 0
    while True:
        share = passed()
        if share * EVALUATIONS >= evaluated + 1 or share >= 1:
            with torch.no_grad():
                nats = sum(float(loss_of(piece, "sum")) for piece in pieces)
            loss = nats / sum(piece.num_targets for piece in pieces)
            row = {"kind": "evaluate", "tokens": tokens, "loss": loss, "trained_seconds": share * settings["seconds"]}
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            evaluated = int(share * EVALUATIONS)
        if share >= 1:
            return
        for group in optimizer.param_groups:
            warm = min(1.0, share / 0.05)
            group["lr"] = settings["lr"] * warm * (0.55 + 0.45 * math.cos(math.pi * share))
        for batch in loader.step():
            loss_of(batch, "mean").backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += STEP_TOKENS


def reached(contender: Contender, loss: float) -> float | None:
    """Seconds of its own until `contender` had that held-out loss, between two evaluations by a straight line."""
    before: dict[str, Any] | None = None
    for row in contender.rows:
        if row["loss"] <= loss:
            if before is None:
                return float(row["seconds"])
            part = (before["loss"] - loss) / (before["loss"] - row["loss"])
            return float(before["seconds"] + part * (row["seconds"] - before["seconds"]))
        before = row
    return None


def draw(contenders: list[Contender], target: float, path: Path) -> None:
    """Held-out loss against minutes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for contender in contenders:
        minutes = [row["seconds"] / 60 for row in contender.rows]
        axes.plot(minutes, [row["loss"] for row in contender.rows], marker="o", markersize=3, label=contender.name)
    axes.axhline(target, color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="minutes since the start of the process", ylabel="held-out loss (nats per token)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prepare, choose the plain loop's learning rate, run all three, return the figures."""
    from slm.core.provenance import processor_name

    out, minutes, threads = arguments.out.resolve(), arguments.minutes, arguments.threads
    words = prepare(arguments.text, out, threads)
    pilot = max(minutes / 10, SHORTEST_PILOT_MINUTES)
    rates = [plain("bf16", words, out, lr, pilot, threads) for lr in RATES]
    take_turns(rates)
    losses = {lr: run.rows[-1]["loss"] for lr, run in zip(RATES, rates, strict=True)}
    lr = min(losses, key=losses.__getitem__)
    scout = ours(words, out, "scout", pilot, 10**9, 0)
    take_turns([scout])
    lines = [json.loads(line) for line in scout.metrics.read_text(encoding="utf-8").split("\n")[:-1]]
    steps = [row for row in lines if row["kind"] == "train"]
    if len(steps) < 3:
        sys.exit(
            f"ours logged {len(steps)} rows in a pilot of {pilot:g} minutes, too few to go by; give more --minutes"
        )
    speed = (steps[-1]["tokens"] - steps[0]["tokens"]) / sum(row["seconds"] for row in steps[1:])
    start = max(0.0, scout.seconds - steps[-1]["tokens"] / speed)
    tokens = int((minutes * 30 * 0.93 - start) * speed)
    contenders = [
        ours(words, out, "timed", minutes, tokens, EVALUATIONS),
        plain("bf16", words, out, lr, minutes, threads),
        plain("fp32", words, out, lr, minutes, threads),
    ]
    take_turns(contenders)
    target = min(contender.rows[-1]["loss"] for contender in contenders[1:])
    seconds = reached(contenders[0], target)
    draw(contenders, target, arguments.figure or out / "time_to_loss.png")
    return {
        "minutes": minutes,
        "threads": threads,
        "machine": f"{processor_name()}, {os.cpu_count()} processors",
        "plain_lr": lr,
        "pilot_losses": losses,
        "target_loss": target,
        "ours_seconds": seconds,
        "times_faster": minutes * 60 / seconds if seconds else None,
        "runs": {contender.name: contender.rows for contender in contenders},
    }


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--text", type=Path, help="train.txt of WikiText-2")
    parser.add_argument("--minutes", type=float, default=10.0, help="time of the transformers loops")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_time_to_loss")
    parser.add_argument("--figure", type=Path, help="where to draw; default: in --out")
    parser.add_argument("--check", action="store_true", help="fail below twice as fast")
    parser.add_argument("--loop", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop is not None:
        plain_loop(arguments.loop)
        return 0
    if arguments.text is None or not arguments.text.is_file():
        parser.error(f"--text ({arguments.text}) is not a file; give the path of WikiText-2's train.txt")
    figures = measure(arguments)
    for name, rows in figures["runs"].items():
        last = rows[-1]
        print(
            f"{name:20} {last['seconds'] / 60:6.2f} min  {last['tokens']:>12,} tokens  held-out loss {last['loss']:.4f}"
        )
    ratio = figures["times_faster"]
    print(f"to {figures['target_loss']:.4f}: " + (f"ours {ratio:.2f} times as fast" if ratio else "ours never came"))
    print(json.dumps(figures))
    return 1 if arguments.check and not (ratio and ratio >= 2) else 0


if __name__ == "__main__":
    sys.exit(main())
