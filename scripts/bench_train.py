"""How fast a training step is, beside transformers, LitGPT and the machine's own matrix products.

    python scripts/bench_train.py [--rounds 7] [--check] [--curves FOLDER] [--no-litgpt] [--threads 1 --cpu-seconds]

Sides take turns, a step each, in processes of their own that sleep while another's turn lasts, so that a machine
which is busy or changes its clock does so for all; the first turn warms up and is not counted. A step is forward,
backward, clipping and AdamW (fused for all) over the same number of tokens with the same shapes. Printed are tokens a
second (median and best), ratios of medians, the share of the measured rate of the model's own matrix products,
forward and both of backward, by the model's FLOPs only (`slm.model.counting`: no recomputation, causal attention),
and the memory of each side: its process's peak less what the process took with everything imported and nothing built.
Other sides run as one gets them; those marked "memory kept" are given the setting of glibc's allocator that training
makes for itself (`slm.core.allocator`), so that the part it has in a ratio can be seen. The last line is one JSON
object. `--check` leaves with status 1 when a bar is missed.

LitGPT pins other libraries, so it runs in `.venv-litgpt`, made on first use with this environment's torch.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bench_turns

from slm.core.provenance import processor_name

if TYPE_CHECKING:
    from slm.report.png import Panel

ROOT = Path(__file__).resolve().parents[1]
LITGPT = "litgpt==0.5.13"
LITGPT_PYTHON = ROOT / ".venv-litgpt" / "bin" / "python"
SHAPE: dict[str, Any] = {
    "vocab_size": 8192, "width": 384, "layers": 6, "heads": 6, "kv_heads": 2, "head_dim": 64, "ffn_width": 1024,
    "tie_embeddings": True,
}  # fmt: skip
"""12.6M parameters."""
MEAN_DOCUMENT_TOKENS = 150
MEMORY_KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
BARS = {
    "over_transformers_bf16": 1.4,
    "over_transformers_fp32": 2.0,
    "over_litgpt_bf16": 2.0,
    "over_litgpt_fp32": 2.0,
    "share_of_products": 0.55,
    "packed_over_unpacked": 0.95,
    "loader_tokens_per_second": 50e6,
}
SHARES = ("share_of_products", "share_of_best_products", "share_of_square_products")
CURVES: dict[str, list[int]] = {
    "vocab_size": [2048, 8192, 32768],
    "length": [128, 512, 2048],
    "width": [128, 256, 384, 640],
}


class Side(bench_turns.Side):
    """A process that steps when it is told to."""

    def __init__(self, side: str, args: argparse.Namespace, python: str = sys.executable, **options: Any) -> None:
        shape = options.pop("shape", SHAPE)
        rows, length = options.pop("rows", args.rows), options.pop("length", args.length)
        request = {
            "side": side, "shape": shape, "rows": rows, "length": length, "threads": args.threads, "options": options,
            "cpu_seconds": args.cpu_seconds,
        }  # fmt: skip
        kept = options.pop("memory_kept", False)
        program = [python, str(ROOT / "scripts" / "bench_sides.py"), json.dumps(request)]
        environment = {"THP_MEM_ALLOC_ENABLE": "1", "OMP_NUM_THREADS": str(args.threads)}
        super().__init__(program, environment | (MEMORY_KEPT if kept else {}))
        self.tokens, self.seconds = rows * length, list[float]()

    def __enter__(self) -> Side:
        super().__enter__()
        return self

    def turn(self) -> None:
        """One step, counted."""
        self.seconds += self.ask("1")

    @property
    def median(self) -> float:
        """Tokens a second of the median step."""
        return self.tokens / statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """Tokens a second of the fastest step."""
        return self.tokens / min(self.seconds)


def main() -> None:
    """Measure, print, judge."""
    args = arguments()
    reason = "left out by --no-litgpt" if args.no_litgpt else litgpt_missing()
    sides = started(args, with_litgpt=not reason)
    for name, answers in bench_turns.take_turns(sides, args.rounds).items():
        sides[name].seconds = [seconds for answer in answers for seconds in answer]
    figures = judged(sides, args)
    figures |= {"litgpt": reason or LITGPT, "loader_tokens_per_second": loader_rate(args)}
    if args.curves:
        figures["curves"] = curves(args)
    print_table(sides, figures, args)
    missed = [name for name, bar in BARS.items() if name in figures and figures[name] < bar]
    print(json.dumps({**figures, "missed": missed}))
    if args.check and missed:
        raise SystemExit(1)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="counted turns of each side")
    parser.add_argument("--rows", type=int, default=8, help="rows of a step")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-seconds", action="store_true", help="of the process, for a busy machine; --threads 1")
    parser.add_argument("--loader-seconds", type=float, default=2.0)
    parser.add_argument("--no-litgpt", action="store_true")
    parser.add_argument("--compile", action="store_true", help="LitGPT also under torch.compile")
    parser.add_argument("--curves", type=Path, help="folder for curves of speed and memory")
    parser.add_argument("--check", action="store_true", help="status 1 when a bar is missed")
    return parser.parse_args()


def started(args: argparse.Namespace, with_litgpt: bool) -> dict[str, Side]:
    """All sides, in the order of their turns."""
    sides = {
        "ours, bf16": Side("ours", args, bf16=True),
        "ours, bf16, packed": Side("ours", args, bf16=True, mean_document_tokens=MEAN_DOCUMENT_TOKENS),
        "products, bf16": Side("products", args, bf16=True),
        "square 1,024, bf16": Side("square", args, bf16=True),
        "transformers, bf16": Side("transformers", args, bf16=True),
        "transformers, bf16, memory kept": Side("transformers", args, bf16=True, memory_kept=True),
        "transformers, fp32": Side("transformers", args),
    }
    if with_litgpt:
        litgpt = functools.partial(Side, "litgpt", args, python=str(LITGPT_PYTHON))
        sides["LitGPT, bf16"] = litgpt(bf16=True)
        sides["LitGPT, bf16, memory kept"] = litgpt(bf16=True, memory_kept=True)
        sides["LitGPT, fp32"] = litgpt()
        if args.compile:
            sides["LitGPT, bf16, compiled"] = litgpt(bf16=True, compile=True)
    return sides


def litgpt_missing() -> str:
    """Why LitGPT cannot be had here; empty where it can. Makes its environment on first use."""
    probe = [str(LITGPT_PYTHON), "-c", "import litgpt.model"]
    if LITGPT_PYTHON.exists() and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        return ""
    print(f"making {LITGPT_PYTHON.parents[1]} with {LITGPT} (once; takes minutes)", file=sys.stderr)
    torch = f"torch=={importlib.metadata.version('torch')}"
    for command in (
        [sys.executable, "-m", "venv", str(LITGPT_PYTHON.parents[1])],
        [str(LITGPT_PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check", LITGPT, torch],
        probe,
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return ""


def model_flops(shape: dict[str, Any], length: int) -> float:
    """Forward and backward of a token."""
    from slm.model.config import ModelConfig
    from slm.model.counting import flops_per_token

    return float(flops_per_token(ModelConfig(**shape, max_seq_len=length), length))


def product_flops(shape: dict[str, Any]) -> float:
    """What a turn of `products` multiplies for each token."""
    from slm.model.config import ModelConfig
    from slm.model.counting import parameters_by_part

    parts = parameters_by_part(ModelConfig(**shape))
    return 6.0 * (parts["attention"] + parts["ffn"] + shape["vocab_size"] * shape["width"])


def judged(sides: dict[str, Side], args: argparse.Namespace) -> dict[str, Any]:
    """The figures that bars are set for, and what they are made of."""
    flops, product = model_flops(SHAPE, args.length), product_flops(SHAPE)
    ours = sides["ours, bf16"]
    median, best = (rate * product for rate in (sides["products, bf16"].median, sides["products, bf16"].best))
    squares, square = sides["square 1,024, bf16"].seconds, 10 * 2 * 1024**3
    figures: dict[str, Any] = {
        "share_of_products": ours.median * flops / median,
        "share_of_best_products": ours.best * flops / best,
        "share_of_square_products": ours.median * flops / (square / statistics.median(squares)),
        "products_flops_per_second": {"median": median, "best": best},
        "square_flops_per_second": {"median": square / statistics.median(squares), "best": square / min(squares)},
        "packed_over_unpacked": sides["ours, bf16, packed"].median / ours.median,
        "sides": {
            name: {"tokens_per_second": side.median, "best_tokens_per_second": side.best, "bytes": side.used_bytes}
            for name, side in sides.items()
            if name not in ("products, bf16", "square 1,024, bf16")
        },
        "machine": f"{processor_name()}, {args.threads} threads, torch {importlib.metadata.version('torch')}",
        "tokens_per_step": ours.tokens,
        "flops_per_token": flops,
    }
    for name, side in sides.items():
        if name.startswith(("transformers", "LitGPT")):
            figures[f"over_{name.lower().replace(', ', '_').replace(' ', '_')}"] = ours.median / side.median
    return figures


def loader_rate(args: argparse.Namespace) -> float:
    """Tokens a second that loader and cursor hand out, over shards made for it of this interpreter's own library."""
    from slm import corpus, shards, tokenizer
    from slm.compose import load_recipe
    from slm.shards.loader import Loader

    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        spoken, sys.stdout, here = sys.stdout, nowhere, Path.cwd()
        os.chdir(folder)
        try:
            recipe = load_recipe(
                "recipe=smoke",
                f"shards.seq_len={args.length}",
                f"model.max_seq_len={args.length}",
                f"train.batch_tokens={8 * args.length}",
            )
            for stage in (corpus, tokenizer, shards):
                stage.run(recipe)
            rows = 64
            loader = Loader(recipe.artifact("shards"), batch_rows=rows, micro_batch_rows=8, seed=0)
            loader.step()
            steps, began = 0, time.perf_counter()
            while time.perf_counter() - began < args.loader_seconds:
                loader.step()
                steps += 1
            return steps * rows * args.length / (time.perf_counter() - began)
        finally:
            sys.stdout = spoken
            os.chdir(here)


def curves(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Speed and memory of our step over vocabulary, length and width, with the tokens of a step kept."""
    from slm.report.png import draw

    points: list[dict[str, Any]] = []
    for key, values in CURVES.items():
        for value in values:
            shape, length = dict(SHAPE), value if key == "length" else args.length
            if key == "vocab_size":
                shape["vocab_size"] = value
            if key == "width":
                heads = value // 64
                kv_heads = next(n for n in range(max(1, heads // 3), 0, -1) if heads % n == 0)
                shape |= {"width": value, "heads": heads, "kv_heads": kv_heads, "ffn_width": value * 8 // 3}
            size = {"shape": shape, "length": length, "rows": max(1, args.rows * args.length // length)}
            with Side("ours", args, bf16=True, **size) as ours, Side("products", args, bf16=True, **size) as yardstick:
                for _ in range(max(2, args.rounds // 2)):
                    ours.turn()
                    yardstick.turn()
            share = ours.median * model_flops(shape, length) / (yardstick.median * product_flops(shape))
            points.append(
                {"varied": key, "value": value, "tokens_per_second": ours.median, "share_of_products": share,
                 "bytes": ours.used_bytes}
            )  # fmt: skip
    args.curves.mkdir(parents=True, exist_ok=True)
    draw(args.curves / "bench_train_curves.png", panels(points))
    return points


def panels(points: list[dict[str, Any]]) -> list[list[Panel]]:
    """Speed in the first row, memory in the second; a column for each thing that varies."""
    from slm.report.png import Line, Panel

    rows: list[list[Panel]] = [[], []]
    for key in CURVES:
        chosen = [point for point in points if point["varied"] == key]
        places = [point["value"] for point in chosen]
        for row, label, values in (
            (rows[0], "tokens a second", [point["tokens_per_second"] for point in chosen]),
            (rows[1], "MB", [point["bytes"] / 1e6 for point in chosen]),
        ):
            row.append(Panel("", key, label, [Line(places, values)], y_range=(0, 1.05 * max(values))))
    return rows


def print_table(sides: dict[str, Side], figures: dict[str, Any], args: argparse.Namespace) -> None:
    """For people."""
    ours = sides["ours, bf16"].median
    print(f"{figures['machine']}; {args.rounds} rounds of {figures['tokens_per_step']:,} tokens, rows of {args.length}")
    print(f"{'side':<34}{'tokens/s':>10}{'best':>10}{'ours is':>9}{'memory MB':>11}")
    for name, row in figures["sides"].items():
        rate, best = row["tokens_per_second"], row["best_tokens_per_second"]
        print(f"{name:<34}{rate:>10,.0f}{best:>10,.0f}{ours / rate:>9.2f}{row['bytes'] / 1e6:>11,.0f}")
    if figures["litgpt"] != LITGPT:
        print(f"LitGPT is missing: {figures['litgpt']}")
    rates, percent = figures["products_flops_per_second"], {k: f"{100 * figures[k]:.0f} %" for k in SHARES}
    print(
        f"the model's own products in bf16: {rates['median'] / 1e9:.0f} GFLOP/s (best {rates['best'] / 1e9:.0f}); ours "
        f"reaches {percent['share_of_products']} (best of both {percent['share_of_best_products']}; of square "
        f"products {percent['share_of_square_products']}), at {figures['flops_per_token'] / 1e6:.1f} MFLOP a token, "
        "6 (matrices + head) + 12 layers heads head_dim (length + 1) / 2"
    )
    packed = figures["packed_over_unpacked"]
    print(f"packed documents of about {MEAN_DOCUMENT_TOKENS} tokens: {packed:.2f} of the speed of one a row")
    print(f"loader and cursor: {figures['loader_tokens_per_second'] / 1e6:.0f}M tokens/s")
    for point in figures.get("curves", []):
        print(
            f"{point['varied']:<12}{point['value']:>8,}{point['tokens_per_second']:>10,.0f} tokens/s"
            f"{100 * point['share_of_products']:>6.0f} %{point['bytes'] / 1e6:>9,.0f} MB"
        )
    for name, bar in BARS.items():
        if name in figures:
            print(f"{'met   ' if figures[name] >= bar else 'MISSED'} {name} {figures[name]:,.2f} (bar {bar:,})")


if __name__ == "__main__":
    main()
