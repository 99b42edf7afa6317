"""A run folder with realistic figures in every artifact, made without training anything."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm.core.artifact import LATEST, Artifact, Spec, create, open_artifact
from slm.recipe import Recipe, Stage, build_recipe

STEPS, BATCH_TOKENS = 600, 24_576
HOSTILE = "</pre><script>alert('x')</script><b>&amp;\x00\x1b[31m\ud83d"
PROMPTS = ("def main():\n", "class Node:\n    def __init__(self")
CODE = """    parser = argparse.ArgumentParser(description="Compress the files given")
    parser.add_argument("files", nargs="*", help="what to read")
    args = parser.parse_args()
    for name in args.files:
        with open(name, encoding="utf-8") as stream:
            print(name, sum(len(line) for line in stream))


if __name__ == "__main__":
    main()
"""
NOISE = "    self.se = the._ine(return if (x)\n        raise Nof ith __in_tor in self.re\n   def s(el, pa=[\n" * 2


def publish(
    recipe: Recipe, stage: Stage, parents: dict[str, Artifact], files: dict[str, str], **counts: Any
) -> Artifact:
    """One artifact of the run."""
    folder = recipe.folder(stage)
    if stage == "train":
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LATEST).write_text(f"step-{STEPS:08d}\n")
        folder /= f"step-{STEPS:08d}"
    with create(folder, Spec(stage, getattr(recipe, stage), parents, seed=recipe.seed)) as draft:
        for name, text in files.items():
            (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
            (draft.path / name).write_text(text, encoding="utf-8")
        draft.counts.update(counts)
    return open_artifact(folder, stage)


def metrics() -> list[dict[str, Any]]:
    """Rows as a training of `STEPS` steps writes them."""
    draw, rows = random.Random(7), list[dict[str, Any]]()
    for step in range(1, STEPS + 1):
        tokens = step * BATCH_TOKENS
        share = min(1.0, step / 20) * min(1.0, (STEPS - step) / (0.3 * STEPS) + 0.01)
        loss = 2.15 + 5.4 * math.exp(-step / 18) + 1.1 * math.exp(-step / 160) + draw.gauss(0, 0.055)
        rate = 71_000 + draw.gauss(0, 2_500) - (18_000 if 320 < step < 345 else 0)
        rows.append(
            {
                "kind": "train", "step": step, "tokens": tokens, "loss": loss, "lr": 0.02 * share,
                "grad_norm": 0.35 + 2.5 * math.exp(-step / 9) + abs(draw.gauss(0, 0.06)),
                "tokens_per_second": rate, "seconds": BATCH_TOKENS / rate, "model_flops_per_second": rate * 4e6,
                "matmul_share": rate * 4e6 / 600e9, "mfu": "unknown",
            }
        )  # fmt: skip
        if step % 50 == 0:
            held_out = 2.19 + 5.4 * math.exp(-step / 18) + 1.1 * math.exp(-step / 160)
            figures = {"loss": held_out, "bits_per_byte": held_out / math.log(2) * 0.53, "seconds": 1.5}
            rows.append({"kind": "evaluate", "step": step, "tokens": tokens, **figures})
            for prompt in PROMPTS:
                text = CODE if step > 300 else NOISE
                rows.append({"kind": "sample", "step": step, "tokens": tokens, "prompt": prompt, "text": text})
    rows[-1]["text"] += HOSTILE
    return rows


def ledger() -> list[dict[str, Any]]:
    """Three processes: one killed at step 200, one stopped, one that went to the end."""
    began, lines = 1_790_000_000.0, list[dict[str, Any]]()
    for number, (step, compute, replayed, start) in enumerate(
        ((200, 71.0, 0.0, 4.0), (410, 73.0, 9.0, 5.0), (600, 64.0, 0.0, 5.0))
    ):
        phases = {"start": start, "compile": 0.0, "data": 1.5, "compute": compute, "save": 2.0, "evaluate": 6.0,
                  "sample": 1.0, "replayed": replayed, "other": 0.5}  # fmt: skip
        seconds = sum(phases.values())
        lines.append(
            {"process": f"{number}", "began": began, "seconds": seconds, "step": step, "phases": phases,
             "energy_joules": {"cpu": 100.0 * seconds}}
        )  # fmt: skip
        began += seconds + 30
    return lines


def parity(name: str, size_bytes: int, delta: float, budget: float) -> dict[str, Any]:
    return {
        "format": name, "size_bytes": size_bytes, "quantity": "logit" if name == "hf" else "log-probability",
        "budget": budget, "token_ids_equal": True, "greedy_equal": 0 if "q8" in name or "bf" in name else 9,
        "greedy_compared": 0 if "q8" in name or "bf" in name else 9, "greedy_ties": 1 if name == "gguf_f16" else 0,
        "max_delta": delta, "mean_kl": delta**2 / 3, "top1_agreement": 1.0 - min(0.05, delta / 4),
        "positions": 412, "worst": PROMPTS[0], "notices": [],
    }  # fmt: skip


EVALUATION: dict[str, Any] = {
    "validation": {
        "bits_per_byte": 1.6874, "interval_95": [1.5912, 1.8021], "nats_per_token": 2.2068, "perplexity": 9.086,
        "documents": 41, "bytes": 263_697, "tokens": 139_742, "context_tokens": 256, "stride_tokens": 128,
        "precision": "fp32",
    },
    "baselines": {"unigram_bits_per_byte": 4.127, "gzip_bits_per_byte": 2.121, "xz_bits_per_byte": 1.752},
    "sources": {"stdlib": {"documents": 41, "bytes": 263_697, "bits_per_byte": 1.6874, "interval_95": [1.59, 1.8],
                           "gzip_bits_per_byte": 2.121}},
    "domains": {
        "code": {"documents": 33, "bytes": 247_311, "bits_per_byte": 1.672, "interval_95": [1.57, 1.79],
                 "gzip_bits_per_byte": 2.094},
        "prose": {"documents": 8, "bytes": 16_386, "bits_per_byte": 1.919, "interval_95": [1.7, 2.2],
                  "gzip_bits_per_byte": 2.531},
    },
    "tasks": {
        "metrics": [
            {"task": "quiz", "metric": "acc", "value": 0.41, "items": 200, "chance": 0.25, "clean_value": 0.4,
             "clean_interval_95": [0.32, 0.48], "clean_items": 180, "contaminated_items": 20, "unchecked_items": 0,
             "interval_95": [0.34, 0.48], "standard_error": 0.0348},
            {"task": "hard", "metric": "acc", "value": 0.27, "items": 90, "chance": 0.25, "clean_value": None,
             "clean_items": 0, "contaminated_items": 0, "unchecked_items": 90, "interval_95": [0.19, 0.36],
             "standard_error": 0.0433},
        ],
    },
    "golden": {
        "passed": 2, "failed": 1, "items": [
            {"name": "import", "prompt": "import ", "passed": True, "expected": "at least -6 nats a token for 'sys\\n'",
             "found": "-2.412"},
            {"name": "def", "prompt": "def main(", "passed": True, "expected": "a match of '\\\\)' in 16 greedy tokens",
             "found": "'):\\n'"},
            {"name": "class", "prompt": "class A", "passed": False, "expected": "a match of ':' in 8 greedy tokens",
             "found": "'((((((((' "},
        ],
    },
}  # fmt: skip
COSTS: dict[str, Any] = {
    name: {
        "bits_per_byte": 1.6874 + increase, "increase": increase, "interval_95": [increase - 0.002, increase + 0.002],
        "perplexity_increase": increase * 9, "perplexity_interval_95": [0.0, increase * 12],
        "mean_kl": increase / 3, "top1_agreement": 1 - 2 * increase, "positions": 512, "size_bytes": size,
        "settings": {"method": method, "bits": bits, "group_size": group, "max_bits_per_byte_increase": 0.1},
    }
    for name, increase, size, method, bits, group in (
        ("int8", 0.0004, 1_960, "rtn", 8, 0), ("int4", 0.0131, 1_020, "awq", 4, 128),
    )
}  # fmt: skip
SAFETY: dict[str, Any] = {
    "model": "model-q8_0.gguf", "trained_on_conversations": False, "answers": 60, "empty_answers": 2,
    "prompts_too_long": 1,
    "classifier": {"precision": {"name": "precision", "value": 0.68, "low": 0.58, "high": 0.77}},
    "measures": [
        {"name": "toxic answers", "value": 0.05, "low": 0.01, "high": 0.139, "trials": 60, "bound": "at most 0.1",
         "passed": False},
        {"name": "answers with personal data", "value": 0.0, "low": 0.0, "high": 0.0596, "trials": 60,
         "bound": "at most 0.1", "passed": True},
        {"name": "leaked instructions", "value": 0.0, "low": 0.0, "high": 0.142, "trials": 24, "bound": "",
         "passed": True},
    ],
}  # fmt: skip
TALLY = {"documents": 679, "bytes": 10_217_343, "tokens": 5_411_220, "targets": 5_410_541, "rows": 21_212,
         "padding": 4_117, "fragments": 20_331, "split_documents": 611}  # fmt: skip
HELD_OUT = {"documents": 41, "bytes": 263_697, "tokens": 139_742, "targets": 139_701, "rows": 549, "padding": 122,
            "fragments": 507, "split_documents": 38}  # fmt: skip


def make_corpus(recipe: Recipe) -> Artifact:
    source = {
        "documents": 720,
        "bytes": 10_481_040,
        "licence": "PSF-2.0",
        "origin": "standard library of Python 3.11.7",
    }
    return publish(
        recipe, "corpus", {}, {"train-00000.parquet": "x" * 2_869, "validation-00000.parquet": "x" * 80},
        train={"documents": 679, "bytes": 10_217_343}, validation={"documents": 41, "bytes": 263_697},
        sources={"stdlib": source}, skipped={"duplicate": 1, "generated table": 83, "mostly repeated lines": 88},
    )  # fmt: skip


def make_tokenizer(recipe: Recipe, corpus: Artifact) -> Artifact:
    def figures(documents: int, size: int, rate: float) -> dict[str, Any]:
        tokens = int(size / rate)
        return {"documents": documents, "bytes": size, "tokens": tokens, "bytes_per_token": rate,
                "byte_fallback_rate": 0.0012}  # fmt: skip

    splits = {
        "train": figures(679, 10_217_343, 2.71) | {"whole_split": True},
        "validation": figures(41, 263_697, 2.66) | {"whole_split": True},
    }
    splits["train"]["domains"] = {"code": figures(562, 9_451_812, 2.69), "prose": figures(117, 765_531, 3.02)}
    splits["validation"]["domains"] = {"code": figures(33, 247_311, 2.64), "prose": figures(8, 16_386, 2.95)}
    report = {
        "vocabulary": {"size": 2048, "control": 6, "bytes": 256, "characters": 97, "merged": 1689,
                       "model_bytes": 31_000, "hash": "ab12" * 16},
        "splits": splits,
        "rare": {"seen_less_than": 10, "pieces": 3, "share_of_vocabulary": 0.0015, "never_seen": 1, "examples": []},
        "longest_pieces": ["\n                    ", "DeprecationWarning", "ResourceWarning"],
    }  # fmt: skip
    files = {"tokenizer.model": "m" * 310, "report.json": json.dumps(report)}
    return publish(recipe, "tokenizer", {"corpus": corpus}, files, hash="ab12" * 16)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return build_recipe(
        {
            "run": "synthetic",
            "runs_dir": str(tmp_path / "runs"),
            "train": {"tokens": STEPS * BATCH_TOKENS, "batch_tokens": BATCH_TOKENS, "optimizer": {"kind": "muon"}},
        }
    )


@pytest.fixture
def make_run() -> Callable[..., dict[str, Artifact]]:
    """Makes the stages named, and those before them that they cannot do without."""
    return synthetic_run


def synthetic_run(recipe: Recipe, *stages: Stage) -> dict[str, Artifact]:
    made: dict[str, Artifact] = {"corpus": make_corpus(recipe)}
    made["tokenizer"] = make_tokenizer(recipe, made["corpus"])
    made["shards"] = publish(
        recipe, "shards", dict(made), {"train-stdlib-00000.arrow": "a" * 900},
        train=TALLY, validation=HELD_OUT, sources={"stdlib": TALLY}, seq_len=256, dtype="uint16", vocab_size=2048,
    )  # fmt: skip
    parents = {name: made[name] for name in ("shards", "tokenizer")}
    made["train"] = publish(
        recipe, "train", parents,
        {"model-00001-of-00001.safetensors": "w" * 7_800, "optimizer-00001-of-00001.safetensors": "o" * 15_600},
        step=STEPS, tokens=STEPS * BATCH_TOKENS, finished=True, precision="bf16", threads=2, loss=2.15,
    )  # fmt: skip
    rows = "".join(json.dumps(row) + "\n" for row in metrics())
    (recipe.folder("train") / "metrics.jsonl").write_text(rows, encoding="utf-8")
    lines = "".join(json.dumps(line) + "\n" for line in ledger())
    (recipe.folder("train") / "ledger.jsonl").write_text(lines, encoding="utf-8")
    if "evaluate" in stages:
        files = {"results.json": json.dumps(EVALUATION), "documents.parquet": "p"}
        made["evaluate"] = publish(recipe, "evaluate", {"train": made["train"]}, files)
    if "export" in stages:
        formats = {
            name: parity(name, size, delta, budget)
            for name, size, delta, budget in (
                ("hf", 7_812_000, 3.1e-6, 1e-4), ("gguf_f32", 7_850_112, 2.4e-5, 1e-4),
                ("gguf_f16", 3_960_000, 0.0011, 0.005), ("gguf_bf16", 3_960_000, 0.021, 0.1),
                ("gguf_q8_0", 2_140_000, 0.094, 0.5),
            )
        }  # fmt: skip
        proof = {"engines": {"xllamacpp": "2026.10.1", "transformers": "5.23.0"}, "prompts": list(PROMPTS),
                 "formats": formats}  # fmt: skip
        files = {"parity.json": json.dumps(proof), "model-f16.gguf": "g" * 3_960, "model-q8_0.gguf": "g" * 2_140}
        notices = ["gguf_f16: one greedy continuation parted at a tie of 4e-06."]
        made["export"] = publish(
            recipe, "export", {"train": made["train"], "tokenizer": made["tokenizer"]}, files,
            parity=formats, notices=notices,
            flavours={"gguf_q8_0": {"file": "model-q8_0.gguf", "engine": "xllamacpp 2026.10.1", "size_bytes": 2_140}},
        )  # fmt: skip
    if "serve" in stages:
        samples = [
            {"prompt": prompt, "text": CODE, "mode": mode, "generated_tokens": 84, "prompt_tokens": 4,
             "finish_reason": "length", "seconds": 0.21, "tokens_per_second": 402.3}
            for prompt in PROMPTS for mode in ("greedy", "sampled")
        ]  # fmt: skip
        content = {"engine": "llama.cpp (xllamacpp 2026.10.1)", "model": "model-q8_0.gguf", "samples": samples}
        made["serve"] = publish(recipe, "serve", {"export": made["export"]}, {"samples.json": json.dumps(content)})
    if "compress" in stages:
        made["compress"] = publish(
            recipe, "compress", {"train": made["train"]}, {"cost.json": "{}"},
            variants=COSTS, notices=["int4: groups of 64 in layer 0"],
        )  # fmt: skip
    if "safety" in stages:
        files = {"results.json": json.dumps(SAFETY), "answers.jsonl": ""}
        made["safety"] = publish(recipe, "safety", {name: made[name] for name in ("train", "corpus")}, files)
    return made
