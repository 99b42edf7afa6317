"""Post-training beside TRL, both in one run on one machine.

    python scripts/bench_posttrain.py sft --environments FOLDER [--rounds 10] [--check] recipe=sft_15m
    python scripts/bench_posttrain.py preference --environments FOLDER [--rounds 10] [--check] recipe=dpo_15m
    python scripts/bench_posttrain.py values --environments FOLDER [--check]

- sft: steps of the recipe's training (its `train.initial`, its shards, its own loop) beside TRL's `SFTTrainer` on the
  same weights and the same conversations, given as the ids and the learned tokens that the shards hold: as one gets it
  (8 conversations a step, each padded to the longest, activations recomputed, bf16), and set up for speed (as many
  conversations a step as ours has, nothing recomputed, glibc told to keep freed memory as ours tells it), without and
  with its packing. Optimizers are those of the recipe and of TRL (AdamW).
- preference: the same beside TRL's `DPOTrainer`, on the pairs that the shards hold: as one gets it (8 pairs a step, the
  reference asked in each step, activations recomputed), and set up for speed (as many pairs a step as ours, the
  reference asked before, as ours does, nothing recomputed).
- values: each preference loss, and its gradient, beside TRL's on the same batch (see `bench_preferences.py`).

Sides take turns in processes of their own that sleep while another's turn lasts; the first turn warms up. A turn ends
after the step in which as many tokens have been read as `--turn-tokens`. Printed are the tokens a second, those that
the assistant has to say and all that are no padding, and the memory of each side: its process's peak less what the
process took with everything imported and nothing built. The last line is one JSON object; with --check the status is 1
if a bar is missed. TRL has an environment of its own below FOLDER, made where it is missing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench_preferences import THEIRS, trainers, values, write_pairs
from bench_train import MEMORY_KEPT
from bench_turns import Side, take_turns
from compare_quantizers import environment

from slm.compose import load_recipe
from slm.core.provenance import processor_name
from slm.corpus import read_documents
from slm.model.hugging_face import save_pretrained
from slm.model.load import load_model
from slm.recipe import Recipe
from slm.shards.encode import encode
from slm.tokenizer import Tokenizer
from slm.tokenizer.hugging_face import write_hugging_face
from slm.train import specification

SIDES = Path(__file__).with_name("bench_posttrain_sides.py")
CONVERSATIONS = 2_000
"""Given to TRL; ours reads its shards."""
BARS = {"sft_over_default": 2.0, "preference_over_default": 1.3}
MOST_DIFFERENCE = 1e-5
"""Of a loss from TRL's."""
TRL_SFT: dict[str, dict[str, Any]] = {
    "SFTTrainer": {},
    "SFTTrainer, for speed": {"gradient_checkpointing": False, "steps_as_ours": True},
    "SFTTrainer, packing": {"gradient_checkpointing": False, "packing": True},
}


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("sft")
    one.set_defaults(measure=sft)
    two = parts.add_parser("preference")
    two.set_defaults(measure=preference)
    three = parts.add_parser("values")
    three.set_defaults(measure=lambda _, args, place: values(environment(args.environments, "trl"), place))
    for each in (one, two, three):
        each.add_argument("recipe", nargs="*", help="recipe=NAME and settings, as `slm train` takes them")
        each.add_argument("--environments", type=Path, required=True, help="folder of TRL's environment")
        each.add_argument("--rounds", type=int, default=10, help="counted turns of each side")
        each.add_argument("--turn-tokens", type=int, default=4_096, help="tokens read in a turn, at least")
        each.add_argument("--threads", type=int, default=1)
        each.add_argument("--cpu-seconds", action="store_true", help="of the process, for a busy machine; --threads 1")
        each.add_argument("--check", action="store_true", help="status 1 if a bar is missed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = args.measure(load_recipe(*args.recipe), args, Path(place))
    found |= {"machine": f"{processor_name()}, {args.threads} threads"}
    found["missed"] = [name for name, bar in BARS.items() if name in found and found[name] < bar]
    found["missed"] += ["values"] if found.get("max_difference", 0.0) > MOST_DIFFERENCE else []
    print(json.dumps(found))
    if args.check and found["missed"]:
        raise SystemExit(1)


def sft(recipe: Recipe, args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Ours beside `SFTTrainer`."""
    lengths = write_conversations(recipe, place / "conversations.jsonl")
    write_model(recipe, place / "model")
    a_step = round(recipe.train.batch_tokens * len(lengths) / sum(lengths))
    settings = dict[str, dict[str, Any]]()
    for name, options in TRL_SFT.items():
        rows = a_step if options.get("steps_as_ours") else recipe.train.batch_tokens // recipe.shards.seq_len
        settings[name] = {key: value for key, value in options.items() if key != "steps_as_ours"}
        settings[name] |= {"per_device_train_batch_size": rows} if options else {}
    figures, over = beside(recipe, args, place, "sft_trainer", settings)
    return {"sft": figures, "over": over, "sft_over_default": over["SFTTrainer"], "settings": settings}


def preference(recipe: Recipe, args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Ours beside `DPOTrainer`."""
    write_pairs(recipe, place / "pairs.jsonl")
    write_model(recipe, place / "model")
    asked, counts = recipe.folder("train").with_name("reference"), recipe.artifact("shards").counts["train"]
    if asked.is_dir():
        shutil.copytree(asked, place / recipe.run / "reference")  # else it is asked again
    pairs = counts["documents"] / 2 / (counts["rows"] * recipe.shards.seq_len / recipe.train.batch_tokens)
    settings = trainers(round(pairs))
    figures, over = beside(recipe, args, place, "dpo_trainer", settings, THEIRS)
    return {"preference": figures, "over": over, "preference_over_default": over["DPOTrainer"], "settings": settings}


def beside(
    recipe: Recipe, args: argparse.Namespace, place: Path, kind: str, settings: dict[str, dict[str, Any]], *script: Path
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Our steps and those of TRL's trainer `kind` in each of its settings, in turns: what each did a second, and how
    many times the learned tokens of each ours had."""
    common = {
        "place": str(place), "threads": args.threads, "cpu_seconds": args.cpu_seconds, "turn_tokens": args.turn_tokens,
        "seq_len": recipe.shards.seq_len,
    }  # fmt: skip
    python = environment(args.environments, "trl")
    sides = {
        "ours": side(sys.executable, "ours", {**common, "recipe": recipe.model_dump(mode="json")}),
        **{
            name: side(str(python), kind, {**common, "config": config}, MEMORY_KEPT if config else {}, *script)
            for name, config in settings.items()
        },
    }
    answers = take_turns(sides, args.rounds)
    figures = {name: rates(sides[name], turns) for name, turns in answers.items()}
    show(figures)
    ours = figures["ours"]["learned_per_second"]
    return figures, {name: ours / one["learned_per_second"] for name, one in figures.items() if name != "ours"}


def side(
    python: str, name: str, request: dict[str, Any], variables: Mapping[str, str] = MappingProxyType({}),
    script: Path = SIDES,
) -> Side:  # fmt: skip
    """A side's process, with these variables in its environment."""
    command = [python, str(script), name, json.dumps(request)]
    return Side(command, {"OMP_NUM_THREADS": str(request["threads"]), **variables})


def conversations(recipe: Recipe) -> Iterator[dict[str, list[int]]]:
    """Those of the recipe's training split that fit a row, as `SFTTrainer` takes them once they are tokenized."""
    tokenizer = Tokenizer.load(recipe.artifact("tokenizer").path)
    for _, (ids_T, learned_T) in encode(read_documents(recipe.artifact("corpus"), "train"), tokenizer, 1):
        if learned_T is not None and len(ids_T) <= recipe.shards.seq_len:
            labels = [token if learned else -100 for token, learned in zip(ids_T, learned_T, strict=True)]
            yield {"input_ids": ids_T.tolist(), "labels": [int(label) for label in labels]}


def write_conversations(recipe: Recipe, file: Path) -> list[int]:
    """A JSON Lines table of the first of them; returns their lengths."""
    lengths = []
    with file.open("w", encoding="utf-8") as stream:
        for _, row in zip(range(CONVERSATIONS), conversations(recipe), strict=False):
            stream.write(json.dumps(row) + "\n")
            lengths.append(len(row["input_ids"]))
    if not lengths:
        raise SystemExit(f"error: {recipe.run} has no conversations; take a recipe such as sft_15m")
    return lengths


def write_model(recipe: Recipe, folder: Path) -> None:
    """The weights and the tokenizer that the recipe begins with, as transformers opens them."""
    begun = specification(recipe).parents["initial"]
    tokenizer = Tokenizer.load(recipe.artifact("tokenizer").path)
    ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    save_pretrained(load_model(begun.path), folder, **ids)
    write_hugging_face(tokenizer, folder)


def rates(one: Side, turns: list[dict[str, float]]) -> dict[str, float]:
    """What a side did a second over all its turns, and its memory."""
    sums = {key: sum(turn[key] for turn in turns) for key in ("seconds", "steps", "tokens", "learned", "places")}
    return {
        "learned_per_second": sums["learned"] / sums["seconds"], "tokens_per_second": sums["tokens"] / sums["seconds"],
        "padding": 1 - sums["tokens"] / sums["places"], "tokens_per_step": sums["tokens"] / sums["steps"],
        "used_bytes": one.used_bytes, **sums,
    }  # fmt: skip


def show(figures: dict[str, dict[str, float]]) -> None:
    """For people."""
    ours = figures["ours"]["learned_per_second"]
    print(f"{'side':<24}{'assistant/s':>12}{'tokens/s':>10}{'ours is':>9}{'padding':>9}{'a step':>9}{'memory MB':>11}")
    for name, one in figures.items():
        print(
            f"{name:<24}{one['learned_per_second']:>12,.0f}{one['tokens_per_second']:>10,.0f}"
            f"{ours / one['learned_per_second']:>9.2f}{100 * one['padding']:>7.1f} %{one['tokens_per_step']:>9,.0f}"
            f"{one['used_bytes'] / 1e6:>11,.0f}"
        )


if __name__ == "__main__":
    main()
