"""What training is worth that sees low bits or zeros, beside rounding and pruning afterwards, at equal tokens.

    python scripts/bench_low_bits.py recipe=quickstart train.tokens=131072 [any setting]

In: a run with a finished checkpoint. From it (`train.initial`) these are trained for so many further tokens, with the
same rows, learning rates and seed: one in float32, one for each width of `BITS` by quantization-aware training
(`train.quantization`), and one 2:4 sparse (`train.sparsity`, from what sparsegpt pruned). The float one is rounded
afterwards by RTN and AWQ, each QAT one by RTN on the grid it was trained on; the sparse one is also rounded to 4 bits.
All are read back from their files and measured on the held-out documents.

Out, in `<run>-low-bits`: the runs. A table of the rise in bits per byte over the float one, each with its interval;
paired differences of QAT to RTN and AWQ; dense to sparse before and after. Last line: one JSON object.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import slm.compress
import slm.train
from slm.compose import load_recipe
from slm.compress.config import CompressConfig
from slm.compress.files import load_compressed
from slm.compress.measure import Answers, answers, compare
from slm.compress.stage import held_out
from slm.core.console import table
from slm.core.seeds import derive
from slm.evaluate.statistics.intervals import estimate
from slm.model.load import load_model
from slm.recipe import Recipe, build_recipe

BITS = (4, 3, 2)
GROUP = 64
LR_SHARE = 0.1
"""Of the recipe's learning rates, falling to 0: a fine-tune begins where the recipe's schedule ended. At a quarter of
its rates the float continuation became worse than what it began with."""
ANY = {"max_kl": 99, "max_bits_per_byte_increase": 99}
PRUNED = [
    {"name": by, "method": "sparse", "prune_by": by, "bits": 32, "outside_bits": 32, **ANY}
    for by in ("magnitude", "wanda", "sparsegpt")
]


def main() -> None:
    recipe = load_recipe(*sys.argv[1:])
    parents = {stage: recipe.artifact(stage) for stage in ("corpus", "tokenizer", "shards")}
    text = held_out(recipe, parents)
    begun = compressed(recipe, recipe, "base", PRUNED)
    runs = {"float": fine_tuned(recipe, "float")}
    for bits in BITS:
        runs[f"qat{bits}"] = fine_tuned(recipe, f"qat{bits}", quantization={"bits": bits, "group_size": GROUP})
    runs["sparse"] = fine_tuned(recipe, "sparse", sparsity="2:4", initial=str(begun / "sparsegpt"))
    said = {"before": answers(load_model(recipe.artifact("train").path).eval(), text, recipe.compress.positions)}
    for name in ("float", "sparse"):
        said[name] = answers(load_model(runs[name].artifact("train").path).eval(), text, recipe.compress.positions)
    folders = {f"pruned by {each['name']}": begun / str(each["name"]) for each in PRUNED}
    rounded = [{"name": f"{how}{bits}", "method": how, "bits": bits, "group_size": GROUP, **ANY}
               for bits in BITS for how in ("rtn", "awq")]  # fmt: skip
    folder = compressed(recipe, runs["float"], "float", rounded)
    folders |= {str(each["name"]): folder / str(each["name"]) for each in rounded}
    for bits in BITS:
        same = {"name": "rtn", "method": "rtn", "bits": bits, "group_size": GROUP, **ANY}
        folders[f"qat{bits} rounded"] = compressed(recipe, runs[f"qat{bits}"], f"qat{bits}", [same]) / "rtn"
    int4 = {"name": "int4", "method": "rtn", "bits": 4, "group_size": GROUP, "symmetric": True, **ANY}
    folders["sparse in int4"] = compressed(recipe, runs["sparse"], "sparse", [int4]) / "int4"
    for name, place in folders.items():
        said[name] = answers(load_compressed(place).eval(), text, recipe.compress.positions)
    show(recipe, said, text)


def fine_tuned(recipe: Recipe, name: str, **train: Any) -> Recipe:
    """The recipe of a run that begins with the checkpoint of `recipe`, once it is trained."""
    values = recipe.resolved()
    optimizer = {key: values["train"]["optimizer"][key] * LR_SHARE for key in ("lr", "muon_lr")}
    values["train"] |= {
        "initial": str(recipe.artifact("train").path), "schedule": {"kind": "linear"}, "evaluate_every_steps": 0,
        "optimizer": values["train"]["optimizer"] | optimizer, "sample_prompts": [], **train,
    }  # fmt: skip
    values["artifacts"] = {stage: str(recipe.folder(stage)) for stage in ("corpus", "tokenizer", "shards")}
    made = build_recipe({**values, "run": f"{recipe.run}-low-bits/{name}", "redo": False})
    slm.train.run(made)
    return made


def compressed(recipe: Recipe, run: Recipe, name: str, variants: list[dict[str, Any]]) -> Path:
    """The folder of these variants of a run's checkpoint."""
    section = {**recipe.compress.resolved(), "variants": variants}
    artifacts = {stage: str(recipe.folder(stage)) for stage in ("corpus", "tokenizer", "shards")}
    places = recipe.artifacts.model_copy(update={**artifacts, "train": str(run.folder("train"))})
    changed = {"run": f"{recipe.run}-low-bits/{name}", "compress": CompressConfig.model_validate(section)}
    return slm.compress.run(recipe.model_copy(update={**changed, "artifacts": places})).path


def show(recipe: Recipe, said: dict[str, Answers], text: Any) -> None:
    """Tables, and the figures as JSON."""
    seed = derive(recipe.seed, "bootstrap")
    result: dict[str, Any] = {"tokens": recipe.train.tokens, "group": GROUP, "rises": {}, "differences": {}}
    result["bits_per_byte"] = {
        name: float(said[name].nats_D.sum()) / math.log(2) / float(text.bytes_D.sum()) for name in ("before", "float")
    }
    rows = []
    for name, found in said.items():
        against = "before" if name.startswith("pruned") else "float"
        cost = compare(said[against], found, text, seed)
        result["rises"][name] = [cost.increase, *cost.interval_95, cost.mean_kl, cost.top1_agreement]
        low, high = cost.interval_95
        rows.append((name, against, f"{cost.increase:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{cost.mean_kl:.3g}",
                     f"{100 * cost.top1_agreement:.1f} %"))  # fmt: skip
    table("Δ bits per byte", ("model", "over", "Δ", "95 % interval", "mean KL", "top-1"), rows)
    rows = []
    pairs = [(f"qat{bits} rounded", f"{how}{bits}") for bits in BITS for how in ("rtn", "awq")]
    for one, other in [*pairs, ("sparse", "pruned by sparsegpt")]:
        found = estimate((said[one].nats_D - said[other].nats_D) / math.log(2), text.bytes_D, seed=seed)
        result["differences"][f"{one} - {other}"] = [found.value, found.low, found.high]
        rows.append((f"{one} - {other}", f"{found.value:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}"))
    table("Paired differences of bits per byte", ("which", "difference", "95 % interval"), rows)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
