"""What quantizing to 4 bits costs, beside AutoAWQ and gptqmodel: quality on one text in one run, seconds, and memory.

    python scripts/bench_quantizers.py quality --environments FOLDER --text data/wikitext-2/test.txt \
        recipe=wikitext2_15m
    python scripts/bench_quantizers.py cost --sizes 15m,135m,3b

- quality: the newest checkpoint of a run, its calibration rows (the same ids for all, each row read as one text),
  one group size, zero points. Each side quantizes in a process of its own with the same threads, in float32
  (gptqmodel, which packs no float32, in bfloat16), and writes its folder; every folder is read by one reader, its
  integers dequantized to float32, and all are scored together, document after document, in the same windows of the
  rows' length, side by side. What lies outside the blocks is the checkpoint's own for all. The text is `--text`, cut
  into documents where the recipe's corpus cuts its own, or the run's held-out documents. Differences are paired by
  document. What is done lies in `--work`, and a killed run goes on.
- cost: our AWQ of models with fresh weights (cost does not depend on what they are) of each of `SHAPES`; of the
  largest one layer stands for all, and its memory is that of all: blocks are made one after the other.

Seconds run from before the checkpoint is read until the result is on disk, imports left out, by the clock and of the
processor, all threads together. Peak memory is that of the process (`VmHWM`), libraries included. The last line is
one JSON object; with --check the status is 1 if our AWQ is worse than another's beyond chance, not better than plain
rounding, or slower than another's AWQ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare_quantizers import THEIRS, environment

from slm.compose import load_recipe, read_yaml, shipped_folder
from slm.compress.assemble import assemble
from slm.compress.calibration import Rows, from_shards
from slm.compress.config import CompressConfig, Variant
from slm.compress.files import load_compressed
from slm.compress.stream import StoredModel, compress_blocks
from slm.core.artifact import write_atomically
from slm.core.console import Progress, size, table
from slm.core.provenance import processor_name
from slm.corpus import read_documents
from slm.evaluate.statistics.paired import difference
from slm.export import awq
from slm.export.subject import Subject
from slm.model.config import ModelConfig
from slm.model.hugging_face import from_hf, save_pretrained
from slm.model.load import load_model, load_tensors, model_from, save_model
from slm.model.transformer import Transformer, build
from slm.recipe import Recipe
from slm.tokenizer.hugging_face import write_hugging_face
from slm.tokenizer.tokenizer import Tokenizer

SIDES = {
    "RTN": ("ours", "rtn"),
    "AWQ": ("ours", "awq"),
    "AWQ, nearest": ("ours", "awq"),
    "GPTQ": ("ours", "gptq"),
    "AutoAWQ": ("autoawq", "awq"),
    "gptqmodel AWQ": ("gptqmodel", "awq"),
    "gptqmodel GPTQ": ("gptqmodel", "gptq"),
}
"""Name, whose environment, which method. The second AWQ rounds to the nearest at the end, as the others' do."""
OURS = ("AWQ", "AWQ, nearest")
SHAPES: dict[str, dict[str, int]] = {
    "50m": {
        "width": 512, "layers": 13, "heads": 8, "kv_heads": 4, "head_dim": 64, "ffn_width": 2048, "vocab_size": 8192,
    },
    "3b": {
        "width": 3072, "layers": 1, "heads": 24, "kv_heads": 8, "head_dim": 128, "ffn_width": 8192,
        "vocab_size": 128256,
    },
}  # fmt: skip
"""Beside those of configs/model. The last: one of 28 layers of Llama 3.2 3B's widths."""
SEED = 1234
ROW = 512


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("quality")
    one.add_argument("recipe", nargs="*", help="recipe=NAME and settings, as `slm compress` takes them")
    one.add_argument("--environments", type=Path, help="folder of the other programs' environments")
    one.add_argument("--text", type=Path, help="text to score; the run's held-out documents without it")
    one.add_argument("--documents", type=int, default=0, help="at even distances; all without it")
    one.add_argument("--only", default=";".join(SIDES), help=f"sides, of {'; '.join(SIDES)}")
    one.add_argument("--group-size", type=int, default=128)
    one.add_argument("--work", type=Path, required=True, help="folder for what is done; a run goes on from there")
    one.add_argument("--check", action="store_true", help="status 1 if a bar is missed")
    two = parts.add_parser("cost")
    two.add_argument("--sizes", default="15m,50m,135m,3b")
    for each in (one, two):
        each.add_argument("--tokens", type=int, default=65_536, help="of calibration")
        each.add_argument("--threads", type=int, default=2)
    worker = parts.add_parser("quantize")
    worker.add_argument("spec", type=Path)
    args = parser.parse_args()
    if args.part == "quantize":
        print(json.dumps(quantize(json.loads(args.spec.read_text()))))
        return
    found = (quality if args.part == "quality" else cost)(args)
    found["machine"] = f"{processor_name()}, {args.threads} threads"
    print(json.dumps(found))
    if args.part == "quality" and args.check and found["bad"]:
        raise SystemExit(f"error: {'; '.join(found['bad'])}")


def quantize(spec: dict[str, Any]) -> dict[str, float]:
    """One of our methods, in a process of its own."""
    torch.set_num_threads(spec["threads"])
    before, clock, processor = peak_bytes(), time.perf_counter(), time.process_time()
    model, out = StoredModel(Path(spec["checkpoint"])), Path(spec["out"])
    tokens_NT = torch.tensor(spec["rows"])
    rows = Rows(tokens_NT, torch.zeros_like(tokens_NT), torch.arange(tokens_NT.shape[1]).expand(tokens_NT.shape), "")
    variant = Variant(
        name="int4", method=spec["method"], group_size=spec["group_size"], outside_bits=16,
        compensate=not spec["nearest"],
    )  # fmt: skip
    work = out.with_name(f"{out.name}.work")
    compress_blocks(model, None if variant.method == "rtn" else rows, variant, CompressConfig(), work, lambda _: None)
    assemble(model, variant, work, out)
    return {
        "seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - processor,
        "libraries_bytes": before, "peak_bytes": peak_bytes(),
    }  # fmt: skip


def peak_bytes() -> int:
    """The most memory this process had; `ru_maxrss` would know what its parent had when it started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def run_side(name: str, spec: dict[str, Any], environments: Path | None) -> dict[str, Any]:
    """What a side's process says of its time and memory; its folder is `spec["out"]`."""
    whose, method = SIDES[name]
    out = Path(spec["out"])
    file, said = out.with_name(f"{out.name}.json"), out.with_name(f"{out.name}.said.json")
    wanted = json.dumps({**spec, "method": method, "nearest": name == "AWQ, nearest"})
    if said.is_file() and file.read_text() == wanted:
        done: dict[str, Any] = json.loads(said.read_text())
        return done
    for made in (out, Path(f"{out}.work")):
        shutil.rmtree(made, ignore_errors=True)
    file.write_text(wanted)
    command = [sys.executable, __file__, "quantize", file]
    if whose != "ours":
        if environments is None:
            raise SystemExit(f"{name} needs --environments FOLDER; or leave it out of --only")
        command = [str(environment(environments, whose)), THEIRS, f"quantize_{whose}", file]
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{name} failed:\n{ran.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads([line for line in ran.stdout.splitlines() if line.startswith("{")][-1])
    said.write_text(json.dumps(answer))
    print(f"{name}: {json.dumps(answer)}", flush=True)
    return answer


def quality(args: argparse.Namespace) -> dict[str, Any]:
    """Every side on one checkpoint, one calibration and one text."""
    torch.set_num_threads(args.threads)
    recipe, place = load_recipe(*args.recipe), args.work.resolve()
    checkpoint, tokenizer = recipe.artifact("train").path.resolve(), Tokenizer.load(recipe.artifact("tokenizer").path)
    calibration = recipe.compress.calibration.model_copy(update={"tokens": args.tokens})
    rows = from_shards(recipe.artifact("shards"), calibration, recipe.seed)
    model = load_model(checkpoint, attention="sdpa").eval()
    save_pretrained(model, place / "model", bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id)
    write_hugging_face(tokenizer, place / "model")
    spec = {
        "checkpoint": str(checkpoint), "model": str(place / "model"), "rows": rows.tokens_NT.tolist(),
        "threads": args.threads, "group_size": args.group_size,
    }  # fmt: skip
    found, models = dict[str, Any](), {"": model}
    for name in args.only.split(";"):
        out = place / folder_name(name)
        found[name] = run_side(name, {**spec, "out": str(out)}, args.environments)
        models[name] = opened(name, out, model, tokenizer)
    texts = documents(recipe, args.text)
    texts = texts[:: max(1, len(texts) // args.documents)][: args.documents] if args.documents else texts
    said = score_all(models, texts, tokenizer, rows.tokens_NT.shape[1], place, json.dumps(spec))
    tokens_D = np.array([one["tokens"] for one in said])
    for name, one in found.items():
        one |= perplexity(said, "", name)
        for key in ("kl", "top1"):
            one[key] = float(sum(document[name][key] for document in said) / tokens_D.sum())
    before = math.exp(sum(one[""]["nats"] for one in said) / tokens_D.sum())
    result = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()), "group_size": args.group_size,
        "calibration_tokens": rows.tokens, "documents": len(said), "tokens": int(tokens_D.sum()),
        "perplexity": before, "sides": found, "bad": list[str](),
    }  # fmt: skip
    for ours in OURS:
        judge(ours, result, said)
    show(result)
    return result


def documents(recipe: Recipe, file: Path | None) -> list[str]:
    """The texts to score."""
    if file is None:
        return [document.text for document in read_documents(recipe.artifact("corpus"), "validation")]
    (source, *others) = recipe.corpus.sources
    if others:
        raise SystemExit("--text is cut as the recipe's one source cuts its own; this recipe has several")
    parts = re.split(source.separator or r"\Z", file.read_text(encoding="utf-8"))
    return [part for part in parts if part.strip()]


def score_all(
    models: dict[str, Transformer], texts: list[str], tokenizer: Tokenizer, context: int, place: Path, made_from: str
) -> list[dict[str, Any]]:
    """Of each document what every model says of it; what a model has said of one is not asked again."""
    digests = {name: "reference" if not name else digest(said_file(place, name).read_text()) for name in models}
    folder = place / f"scores-{digest(made_from)}"
    folder.mkdir(exist_ok=True)
    found = []
    with Progress("scoring", len(texts), "documents") as progress:
        for text in texts:
            file = folder / f"{digest(text)}.json"
            known = json.loads(file.read_text()) if file.is_file() else {}
            asked = {name: model for name, model in models.items() if not name or digests[name] not in known}
            if len(asked) > 1 or not known:
                ids = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
                said = score_document(asked, ids, context)
                known |= {"tokens": said["tokens"]} | {digests[name]: said[name] for name in asked}
                write_atomically(file, json.dumps(known))
            found.append({name: known[digests[name]] for name in models} | {"tokens": known["tokens"]})
            progress.advance(1)
    return found


def digest(text: str) -> str:
    """A short name for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def said_file(place: Path, name: str) -> Path:
    """Where a side's answer lies."""
    return place / f"{folder_name(name)}.said.json"


def folder_name(name: str) -> str:
    """What a side's folder is called."""
    return re.sub(r"\W+", "-", name.lower())


@torch.inference_mode()
def score_document(models: dict[str, Transformer], ids: list[int], context: int) -> dict[str, Any]:
    """Of each model nats, KL from the first one, and how often both find the same token likeliest, summed."""
    found: dict[str, Any] = {name: {"nats": 0.0, "kl": 0.0, "top1": 0.0} for name in models}
    for start in range(0, len(ids) - 1, context):
        window_T = torch.tensor(ids[start : start + context + 1])
        reference_TV = None
        for name, model in models.items():
            logits_TV = model.project(model.hidden(window_T[None, :-1]))[0].float()
            logp_TV = torch.log_softmax(logits_TV, -1)
            reference_TV = logp_TV if reference_TV is None else reference_TV
            one = found[name]
            one["nats"] -= float(logp_TV.gather(1, window_T[1:, None]).sum(dtype=torch.float64))
            one["kl"] += float((reference_TV.exp() * (reference_TV - logp_TV)).sum(dtype=torch.float64))
            one["top1"] += float((reference_TV.argmax(-1) == logp_TV.argmax(-1)).sum())
    return {**found, "tokens": len(ids) - 1}


def opened(name: str, out: Path, model: Transformer, tokenizer: Tokenizer) -> Transformer:
    """The float32 model that a side's folder stands for; ours goes through AutoAWQ's form as well."""
    if SIDES[name][0] == "ours":
        subject = Subject(name, load_compressed(out), tokenizer, "0" * 64, variant=out)
        out = awq.write(subject, out.with_name(f"{out.name}-form"), "awq").path
    plain = (out / "dequantized").is_dir()
    tensors = load_tensors(out / "dequantized") if plain else awq.dequantized(out)
    outside = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("blocks.")}
    blocks = {key: tensor.float() for key, tensor in tensors.items() if key.startswith("model.layers.")}
    return model_from(model.config, {**from_hf(blocks), **outside}, out).eval()


def perplexity(said: list[dict[str, Any]], before: str, after: str) -> dict[str, Any]:
    """The rise of the perplexity of a token, with its interval: documents drawn anew, the same for both."""
    nats_D, other_D = (np.array([one[name]["nats"] for one in said]) for name in (before, after))
    tokens_D = np.array([one["tokens"] for one in said], dtype=np.float64)
    rise = difference(nats_D, other_D, tokens_D, seed=SEED)
    level = math.exp(nats_D.sum() / tokens_D.sum())
    low, high = (level * math.expm1(value) for value in (rise.low, rise.high))
    return {"rise": level * math.expm1(rise.value), "rise_95": (low, high)}


def judge(ours: str, result: dict[str, Any], said: list[dict[str, Any]]) -> None:
    """One of our AWQs beside the other sides: the paired difference of perplexity, and what misses its bar.

    That which rounds to the nearest is held against what rounds to the nearest.
    """
    sides, bad = result["sides"], result["bad"]
    for name in sides if ours in sides else ():
        whose, method = SIDES[name]
        if name in OURS or (ours == "AWQ, nearest" and method == "gptq"):
            continue
        beside = perplexity(said, name, ours)
        low, high = beside["rise_95"]
        sides[name][f"{ours} minus this"] = (beside["rise"], low, high)
        if name == "RTN" and high >= 0:
            bad.append(f"{ours} is not better than RTN beyond chance")
        if low > 0:
            bad.append(f"{ours} is worse than {name}")
        if whose != "ours" and method == "awq":
            bad += [
                f"{ours} takes more {key} than {name}"
                for key in ("seconds", "processor_seconds")
                if sides[ours][key] >= sides[name][key]
            ]


def show(result: dict[str, Any]) -> None:
    """The table of `quality`."""
    rows = []
    for name, one in result["sides"].items():
        beside = ["{:+.3f} ({:+.3f} to {:+.3f})".format(*one[key]) for key in one if key.endswith("minus this")]
        rows.append(
            (
                name, f"{one['rise']:+.3f}", "{:+.3f} to {:+.3f}".format(*one["rise_95"]),
                *[*beside, "", ""][:2], f"{one['kl']:.5f}",
                f"{100 * one['top1']:.2f} %", f"{one['seconds']:.1f}", f"{one['processor_seconds']:.1f}",
                size(one["peak_bytes"]), size(one["libraries_bytes"]),
            )
        )  # fmt: skip
    title = (
        f"4 bits in groups of {result['group_size']}, {result['parameters'] / 1e6:.1f}M parameters, perplexity "
        f"{result['perplexity']:.3f} on {result['documents']} documents"
    )
    columns = (
        "side",
        "Δ PPL",
        "95 %",
        "AWQ - this (95 %)",
        "nearest - this",
        "KL",
        "top-1",
        "s",
        "CPU s",
        "peak",
        "of that libraries",
    )
    table(title, columns, rows)


def cost(args: argparse.Namespace) -> dict[str, Any]:
    """Our AWQ of models of several sizes."""
    found, rows = dict[str, Any](), []
    for name in args.sizes.split(","):
        with tempfile.TemporaryDirectory() as place:
            found[name] = one = cost_of(name, args, Path(place))
        rows.append(
            (
                name, f"{one['parameters'] / 1e6:.1f}M", one["layers"], f"{one['seconds']:.1f}",
                f"{one['processor_seconds']:.1f}", size(one["peak_bytes"]), size(one["libraries_bytes"]),
            )
        )  # fmt: skip
    columns = ("size", "parameters", "layers", "s", "CPU s", "peak", "of that libraries")
    table(f"AWQ, 4 bits in groups of 128, {args.tokens:,} tokens of calibration", columns, rows)
    return {"cost": found, "calibration_tokens": args.tokens}


def cost_of(name: str, args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Seconds and memory of one size."""
    shape = SHAPES.get(name) or read_yaml(shipped_folder("configs") / "model" / f"{name}.yaml")
    config = ModelConfig(**{**shape, "max_seq_len": ROW})
    model = build(config, SEED)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    save_model(model, place / name)
    del model
    draw = torch.Generator().manual_seed(SEED)
    tokens_NT = torch.randint(config.vocab_size, (args.tokens // ROW, ROW), generator=draw)
    spec = {
        "checkpoint": str(place / name), "rows": tokens_NT.tolist(), "threads": args.threads, "group_size": 128,
        "out": str(place / f"{name}-int4"),
    }  # fmt: skip
    return {**run_side("AWQ", spec, None), "parameters": parameters, "layers": config.layers}


if __name__ == "__main__":
    main()
