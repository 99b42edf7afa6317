"""What an importance matrix and AWQ's scales are worth in GGUF files: each of them alone, both, neither.

    python scripts/bench_gguf.py recipe=wikitext2_15m [formats=gguf_q4_k_m,gguf_q4_0] [documents=8]

In: a run with corpus, shards and checkpoint. The model is scaled for groups of 32 of 4 bits over the recipe's
calibration text, and each format is written from the plain and from the scaled model, with and without the importance
of columns. The files are read back by our own reader and measured against the checkpoint in float32 on held-out
documents: rise in bits per byte with its interval over documents, KL at 512 positions, likeliest tokens. What is common
to two files is not in their difference, so that has an interval of its own. The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from slm.compose import load_recipe
from slm.compress.assemble import assemble
from slm.compress.calibration import calibration_rows
from slm.compress.config import Variant
from slm.compress.files import load_compressed
from slm.compress.measure import Answers, answers, compare, held_out
from slm.compress.stream import StoredModel, compress_blocks
from slm.export import gguf, importance
from slm.export.subject import Subject
from slm.model.load import load_model
from slm.model.transformer import Transformer
from slm.recipe import Recipe
from slm.tokenizer.tokenizer import Tokenizer

POSITIONS = 512
SCALED = Variant(name="scaled", method="scale", group_size=32)


def main() -> None:
    """Measure and print."""
    own = dict(word.split("=", 1) for word in sys.argv[1:] if word.startswith(("formats=", "documents=")))
    recipe = load_recipe(*(word for word in sys.argv[1:] if word.partition("=")[0] not in own))
    formats = own.get("formats", "gguf_q4_k_m,gguf_q4_0").split(",")
    checkpoint, tokenizer = recipe.artifact("train"), Tokenizer.load(recipe.artifact("tokenizer").path)
    context, most = int(recipe.artifact("shards").counts["seq_len"]), int(own.get("documents", "8"))
    text = held_out(recipe.artifact("corpus"), recipe.artifact("tokenizer").path, context, most, 1)
    model = load_model(checkpoint.path, attention="sdpa").eval()
    reference = answers(model, text, POSITIONS)
    plain = Subject(recipe.run, model, tokenizer, checkpoint.fingerprint)
    found: dict[str, Any] = {"tokens": text.targets, "bytes": int(text.bytes_D.sum())}
    said: dict[str, Answers] = {}
    with tempfile.TemporaryDirectory() as folder:
        for how, subject in subjects(recipe, plain, Path(folder)):
            for name in formats:
                path = gguf.write(subject, Path(folder), name).path
                said[f"{name} {how}"] = of_file = answers(opened(path, model), text, POSITIONS)
                cost = asdict(compare(reference, of_file, text, seed=1))
                against = compare(said[f"{name} plain"], of_file, text, seed=1)
                cost["against_plain"] = [against.increase, *against.interval_95]
                found[f"{name} {how}"] = {**cost, "bytes": path.stat().st_size}
                show(name, how, found[f"{name} {how}"])
    print(json.dumps(found))


def subjects(recipe: Recipe, plain: Subject, folder: Path) -> Iterator[tuple[str, Subject]]:
    """The plain and the scaled model, each without and with the importance of its columns."""
    shards, tokenizer = recipe.artifact("shards"), recipe.artifact("tokenizer")
    rows = calibration_rows(recipe, shards, tokenizer, plain.model.config.max_seq_len)
    stored = StoredModel(recipe.artifact("train").path)
    compress_blocks(stored, rows, SCALED, recipe.compress, folder / "work", lambda _: None)
    assemble(stored, SCALED, folder / "work", folder / "scaled")
    scaled = replace(plain, model=load_compressed(folder / "scaled").eval())
    for name, subject in (("plain", plain), ("scaled", scaled)):
        yield name, subject
        weights = importance.observe(subject.model, rows, recipe.compress.calibration.batch_rows)
        yield f"{name} + imatrix".replace("plain + ", ""), replace(subject, importance=weights)


def opened(path: Path, like: Transformer) -> Transformer:
    """The model that a file stands for, in float32."""
    with torch.device("meta"):
        model = Transformer(like.config)
    numbers = {name: torch.tensor(values) for name, values in
               gguf.dequantized(path, like.config).items()}  # fmt: skip
    model.load_state_dict(numbers, assign=True)
    return model.eval()


def show(name: str, how: str, cost: dict[str, Any]) -> None:
    """One line."""
    low, high = cost["interval_95"]
    better, *interval = cost["against_plain"]
    print(
        f"{name:>12} {how:>16}: {cost['bytes']:,} bytes, {cost['increase']:+.5f} bits per byte ({low:+.5f} to "
        f"{high:+.5f}), KL {cost['mean_kl']:.5f}, top-1 {100 * cost['top1_agreement']:.1f} %; against plain "
        f"{better:+.5f} ({interval[0]:+.5f} to {interval[1]:+.5f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
