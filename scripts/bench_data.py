"""How fast text becomes rows, per core: the whole pipeline, its steps beside other libraries, and cost against size.

    python scripts/bench_data.py [--largest 2e9] [--check] [--curves FOLDER] [--cpu-seconds] [--only encode,packing]

Each part runs in a process of its own (`bench_data_parts.py`); where there is another side, both take turns in one
run. The text is made by a seeded generator: English words in the order of chance, with repeated, nearly repeated
and unusable documents among them. Measured are: Parquet to shards with every default step and an evaluation to look
for, and where the time goes; the same with the steps of `corpus=web`, and the rate of each of these;
tokenization beside SentencePiece's own batch encoding, and by two processes beside one; MinHash signatures beside
datasketch; packing; the loader; and the pipeline again from 1 MB to `--largest`, with its peak memory. The vocabulary
is learned once, before, and its cost told apart. The last line is one JSON object. `--check` leaves with status 1
when a bar is missed. `--cpu-seconds` counts the processor's seconds, for a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from slm.core.provenance import processor_name

ROOT = Path(__file__).resolve().parents[1]
PARTS = ROOT / "scripts" / "bench_data_parts.py"
LEAST = {
    "pipeline_mb_per_second": 1.5,
    "encode_over_sentencepiece": 0.9,
    "encode_two_processes_over_one": 1.8,
    "minhash_over_datasketch": 10.0,
    "packing_documents_per_second": 1e6,
    "packing_used": 0.999,
    "loader_rows_of_2048_per_second": 1e5,
    "loader_tokens_of_512_per_second": 50e6,
}
MOST = {"packing_lost_tokens": 0.0, "cost_growth": 1.25, "memory_growth": 1.25}
"""Growth is the cost of a megabyte, and the peak memory, at the largest size over those at `STEADY_BYTES`."""
STEADY_BYTES = 60e6
"""From here on windows and row groups are full, and the fixed costs of starting weigh little."""
SHOWN_STEPS = 15
CHOICES = ("pipeline", "web", "cleaning", "encode", "minhash", "packing", "loader", "curve")

Figures = dict[str, Any]


def main() -> None:
    """Measure, print, judge."""
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(args, Path(folder))
    figures["machine"] = f"{processor_name()}, Python {platform.python_version()}"
    if args.curves and "curve" in figures:
        args.curves.mkdir(parents=True, exist_ok=True)
        draw(figures["curve"], args.curves / "bench_data_curves.png")
    print_table(figures)
    missed = [name for name, bar in LEAST.items() if name in figures and figures[name] < bar]
    missed += [name for name, bar in MOST.items() if name in figures and figures[name] > bar]
    print(json.dumps({**figures, "missed": missed}))
    if args.check and missed:
        raise SystemExit(1)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--largest", type=float, default=64e6, help="bytes of the largest corpus of the curve")
    parser.add_argument("--bytes", type=float, default=32e6, help="bytes of the corpus that is profiled")
    parser.add_argument("--rounds", type=int, default=5, help="counted turns of each side")
    parser.add_argument("--loader-seconds", type=float, default=3.0)
    parser.add_argument("--loader-tokens", type=float, default=30e6, help="tokens of the shards that are read")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(CHOICES), help=f"parts, of {', '.join(CHOICES)}")
    parser.add_argument("--words", default="", help="settings of the pipeline's recipe, as on a command line")
    parser.add_argument("--cpu-seconds", action="store_true", help="of the processor, for a busy machine")
    parser.add_argument("--curves", type=Path, help="folder for the curves of cost and memory")
    parser.add_argument("--check", action="store_true", help="status 1 when a bar is missed")
    args = parser.parse_args()
    args.only = args.only.split(",")
    unknown = sorted(set(args.only) - set(CHOICES))
    if unknown:
        parser.error(f"--only {', '.join(unknown)}: no such part; there are {', '.join(CHOICES)}")
    return args


def part(name: str, args: argparse.Namespace, **settings: Any) -> Figures:
    """What one part finds, in a process of its own."""
    given = {"cpu_seconds": args.cpu_seconds, "rounds": args.rounds, "seed": args.seed, **settings}
    print(f"measuring {name} {settings.get('bytes', ''):,}" if "bytes" in settings else f"measuring {name}", flush=True)
    done = subprocess.run([sys.executable, str(PARTS), name, json.dumps(given)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"bench_data: {name} ended with status {done.returncode}\n{done.stdout[-2000:]}")
    found: Figures = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measured(args: argparse.Namespace, folder: Path) -> Figures:
    """All figures that were asked for."""
    figures: Figures = {}
    tokenizer = ""
    if {"pipeline", "web", "encode", "curve"} & set(args.only):
        learned = run_pipeline(args, folder, int(args.bytes), "")
        tokenizer = str(folder / "runs" / "run" / "tokenizer")
        figures["learning_seconds"] = learned["seconds"]["tokenizer"]
        (folder / "runs" / "run").rename(folder / "kept")
        tokenizer = str(folder / "kept" / "tokenizer")
    for name, words in (("pipeline", ()), ("web", ("corpus=web",))):
        if name in args.only:
            whole = figures[name] = run_pipeline(args, folder, int(args.bytes), tokenizer, *words)
            figures[f"{name}_mb_per_second"] = whole["bytes"] / 1e6 / sum(whole["seconds"].values())
    if "cleaning" in args.only:
        figures["cleaning"] = part("cleaning", args, bytes=int(args.bytes / 4))["rates"]
    if "encode" in args.only:
        given = {"tokenizer": tokenizer, "bytes": int(args.bytes / 4)}
        sides = figures["encode"] = part("encode", args, **given)
        figures["encode_over_sentencepiece"] = sides["ours"] / sides["sentencepiece"]
        figures["encode_processes"] = part("encode_processes", args, **given)
        figures["encode_two_processes_over_one"] = figures["encode_processes"]["times"]
    if "minhash" in args.only:
        sides = figures["minhash"] = part("minhash", args, bytes=int(args.bytes / 8))
        figures["minhash_over_datasketch"] = sides["ours"] / sides["datasketch"]
    if "packing" in args.only:
        packed = figures["packing"] = part("packing", args)
        figures["packing_documents_per_second"] = packed["rate_2048"]
        figures["packing_used"] = min(packed["used_512"], packed["used_2048"])
        figures["packing_lost_tokens"] = packed["lost_512"] + packed["lost_2048"]
    if "loader" in args.only:
        rates = figures["loader"] = part(
            "loader", args, loader_seconds=args.loader_seconds, tokens=int(args.loader_tokens)
        )
        figures["loader_rows_of_2048_per_second"] = rates["rows_2048"]
        figures["loader_tokens_of_512_per_second"] = rates["tokens_512"]
    if "curve" in args.only:
        figures |= curve(args, folder, tokenizer)
    return figures


def run_pipeline(args: argparse.Namespace, folder: Path, num_bytes: int, tokenizer: str, *words: str) -> Figures:
    """Text made, the pipeline run over it, and both removed again but the run of the first."""
    path = folder / "text.parquet"
    made = part("write_parquet", args, bytes=num_bytes, path=str(path))
    found = part(
        "pipeline", args, path=str(path), runs=str(folder / "runs"), run="run", tokenizer=tokenizer,
        words=[*words, *args.words.split()],
    )  # fmt: skip
    path.unlink()
    if tokenizer:
        subprocess.run(["rm", "-r", str(folder / "runs" / "run")], check=True)
    return {**found, **{name: made[name] for name in ("bytes", "documents")}}


def curve(args: argparse.Namespace, folder: Path, tokenizer: str) -> Figures:
    """The pipeline at sizes four times apart, from 1 MB to the largest."""
    sizes = [1e6]
    while sizes[-1] * 4 < args.largest:
        sizes.append(sizes[-1] * 4)
    points = []
    for size in [*sizes, args.largest]:
        found = run_pipeline(args, folder, int(size), tokenizer)
        seconds = sum(found["seconds"].values())
        points.append({"bytes": found["bytes"], "seconds": seconds, "peak_bytes": found["peak_bytes"]})
        print(
            f"{found['bytes'] / 1e6:,.0f} MB: {seconds:,.1f} s, {found['peak_bytes'] / 1e6:,.0f} MB at most", flush=True
        )
    figures: Figures = {"curve": points}
    steady = [point for point in points if point["bytes"] >= STEADY_BYTES]
    if len(steady) > 1:
        first, last = steady[0], steady[-1]
        figures["cost_growth"] = last["seconds"] / last["bytes"] / (first["seconds"] / first["bytes"])
        figures["memory_growth"] = last["peak_bytes"] / first["peak_bytes"]
    return figures


def draw(points: list[Figures], path: Path) -> None:
    """Cost and memory against size, both axes logarithmic for the cost."""
    from slm.report.png import Line, Panel, draw

    sizes = [point["bytes"] / 1e6 for point in points]
    cost = Line(sizes, [point["seconds"] for point in points], "measured")
    steady = points[-1]["seconds"] / points[-1]["bytes"] * 1e6
    memory = Line(sizes, [point["peak_bytes"] / 1e6 for point in points])
    panels = [
        Panel("cost", "MB of text", "seconds", [cost, Line(sizes, [size * steady for size in sizes], "linear")], True),
        Panel("peak memory", "MB of text", "MB", [memory], y_range=(0, 1.2 * max(memory.y))),
    ]
    draw(path, [panels])


def print_table(figures: Figures) -> None:
    """For people."""
    print(figures["machine"])
    if "learning_seconds" in figures:
        print(f"learning the vocabulary of 16,384, once: {figures['learning_seconds']:.1f} s")
    for name in sorted({"pipeline", "web"} & set(figures)):
        print_pipeline("Parquet to shards" + (", corpus=web" if name == "web" else ""), figures[name])
    for name, rate in figures.get("cleaning", {}).items():
        print(f"step of corpus=web: {name:<20}{rate:>8.1f} MB/s of the text that reaches it")
    if "encode" in figures:
        sides, team = figures["encode"], figures["encode_processes"]
        print(
            f"tokenization: {sides['ours'] / 1e6:.2f} MB/s, SentencePiece's batch encode "
            f"{sides['sentencepiece'] / 1e6:.2f}; one process {team['one']:.2f} s, two {team['two']:.2f} s"
        )
    if "minhash" in figures:
        sides = figures["minhash"]
        print(
            f"MinHash: {sides['ours']:,.0f} signatures/s, datasketch {sides['datasketch']:,.0f}; from text to keys "
            f"{sides['text_bytes_per_second'] / 1e6:.1f} MB/s"
        )
    if "packing" in figures:
        for length in (512, 2048):
            rate, used, split = (figures["packing"][f"{name}_{length}"] for name in ("rate", "used", "split"))
            print(
                f"packing into rows of {length:,}: {rate / 1e6:.2f}M documents/s, {100 * used:.3f} % used, "
                f"{100 * split:.1f} % of documents split, {figures['packing'][f'lost_{length}']} tokens lost"
            )
    if "loader" in figures:
        rates = {length: figures["loader"][f"tokens_{length}"] for length in (256, 512, 2048)}
        print("loader: " + ", ".join(f"{rate / 1e6:.0f}M tokens/s at {length:,}" for length, rate in rates.items()))
    for point in figures.get("curve", []):
        size, peak = point["bytes"] / 1e6, point["peak_bytes"] / 1e6
        print(
            f"{size:>9,.0f} MB{point['seconds']:>10,.1f} s{size / point['seconds']:>8.2f} MB/s{peak:>8,.0f} MB at most"
        )
    print_bars(figures)


def print_bars(figures: Figures) -> None:
    """Which are met, and which are missed."""
    for bars, better in ((LEAST, lambda found, bar: found >= bar), (MOST, lambda found, bar: found <= bar)):
        for name, bar in bars.items():
            if name in figures:
                word = "met   " if better(figures[name], bar) else "MISSED"
                print(f"{word} {name} {figures[name]:,.4g} (bar {bar:,})")


def print_pipeline(title: str, whole: Figures) -> None:
    """Stages, and the steps that take the most."""
    seconds = whole["seconds"]
    left_out: Counter[str] = Counter()
    for reason, count in whole["skipped"].items():
        left_out[reason.partition("/")[0]] += count
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
    print(
        f"{title}, {whole['bytes'] / 1e6:.1f} MB in {whole['documents']:,} documents, of which "
        f"{whole['kept_bytes'] / 1e6:.1f} MB are kept (left out: {skipped or 'nothing'}): "
        f"{sum(seconds.values()):.1f} s, at most {whole['peak_bytes'] / 1e6:,.0f} MB of memory"
    )
    total = sum(whole["profile"].values())
    steps = Counter(whole["profile"]).most_common(SHOWN_STEPS)
    rest = total - sum(spent for _, spent in steps)
    rows = [*((name, seconds[name]) for name in seconds), *steps, ("all other functions", rest)]
    for name, spent in rows:
        share = spent / (sum(seconds.values()) if name in seconds else total)
        print(f"  {name:<60}{spent:>8.2f} s{100 * share:>6.1f} %{whole['bytes'] / 1e6 / max(spent, 1e-9):>10.1f} MB/s")


if __name__ == "__main__":
    main()
