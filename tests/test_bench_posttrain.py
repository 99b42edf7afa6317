"""What the benchmark of post-training says follows from what its sides wrote, and ours is the run's own training."""

from __future__ import annotations

import importlib.util
import json
import keyword
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import slm.corpus
import slm.shards
import slm.tokenizer
import slm.train
from slm.core.batch import IGNORED
from slm.recipe import Recipe, build_recipe
from slm.shards.loader import read_batch
from slm.shards.reader import ShardReader
from tests.train.conftest import settings

SCRIPTS = Path(__file__).parents[1] / "scripts"
REQUEST = {"cpu_seconds": True, "turn_tokens": 250, "threads": 1}
SCRIPTED = """
import json, sys
sys.path.insert(0, sys.argv[1])
from bench_posttrain_sides import Turns
turns, steps = Turns(json.loads(sys.argv[2])), 0
print("{'loss': 1}  what another program prints", flush=True)
print(json.dumps({"ready": True}), flush=True)
while turns.begin():
    turns.start()
    turns.stop(100, 50, 128)
"""


@pytest.fixture(scope="module", name="bench")
def the_script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPTS))  # it takes things of its neighbours, as when it is run
    spec = importlib.util.spec_from_file_location("bench_posttrain", SCRIPTS / "bench_posttrain.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """One that goes on from another with conversations."""
    base = tmp_path_factory.mktemp("bench")
    draw, words = random.Random(0), [*keyword.kwlist, *dir(str)]
    rows = [
        {
            "prompt": " ".join(draw.choices(words, k=2)),
            "completion": " ".join(draw.choices(words, k=draw.randint(1, 2))),
        }
        for _ in range(240)
    ]
    (base / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = settings(base, "talks")
    values["corpus"]["sources"][0]["conversations"] = "prompt_completion"
    values["corpus"]["duplicates"] = {"near": False}
    values["shards"]["seq_len"] = 64
    values["train"]["tokens"] = 256
    first = build_recipe(values)
    for stage in (slm.corpus, slm.tokenizer, slm.shards, slm.train):
        stage.run(first)
    made = {name: str(first.folder(name)) for name in ("corpus", "tokenizer", "shards")}
    train = {**values["train"], "initial": str(base / "runs" / "talks")}
    return build_recipe({**values, "run": "again", "artifacts": made, "train": train})


def test_a_turn_ends_once_enough_tokens_are_read_and_rates_are_of_all_turns(bench: ModuleType) -> None:
    command = [sys.executable, "-c", SCRIPTED, str(SCRIPTS), json.dumps(REQUEST)]
    one = bench.Side(command, {})
    (turns,) = bench.take_turns({"scripted": one}, 2).values()
    assert [(turn["steps"], turn["tokens"], turn["learned"], turn["places"]) for turn in turns] == [
        (3, 300, 150, 384), (3, 300, 150, 384),
    ]  # fmt: skip
    for turn, seconds in zip(turns, (2.0, 4.0), strict=True):
        turn["seconds"] = seconds
    found = bench.rates(one, turns)
    assert (found["learned_per_second"], found["tokens_per_second"]) == (50, 100)
    assert found["padding"] == pytest.approx(1 - 300 / 384)
    assert found["used_bytes"] >= 0


def test_both_sides_are_given_the_same_conversations_and_targets(bench: ModuleType, recipe: Recipe) -> None:
    reader = ShardReader(recipe.artifact("shards"), "train")
    batch = read_batch(reader, range(reader.num_rows))
    learned = sorted(int(token) for token in batch.targets_BT[batch.targets_BT != IGNORED])
    rows = list(bench.conversations(recipe))
    assert len(rows) == recipe.artifact("shards").counts["conversations"]["whole"] - _held_out(recipe)
    assert sorted(label for row in rows for label in row["labels"][1:] if label != IGNORED) == learned
    assert all(len(row["input_ids"]) == len(row["labels"]) for row in rows)


def test_our_side_trains_the_recipe_and_counts_what_it_reads(bench: ModuleType, recipe: Recipe, tmp_path: Path) -> None:
    asked = {**REQUEST, "turn_tokens": 1, "place": str(tmp_path), "recipe": recipe.model_dump(mode="json")}
    one = bench.side(sys.executable, "ours", asked)
    ((turn,),) = bench.take_turns({"ours": one}, 1).values()
    assert (turn["steps"], turn["places"]) == (1, recipe.train.batch_tokens)
    assert 0 < turn["learned"] < turn["tokens"] <= turn["places"]
    assert one.used_bytes > 0


def test_the_other_side_is_counted_without_its_padding(bench: ModuleType) -> None:
    assert bench.BARS == {"sft_over_default": 2.0, "preference_over_default": 1.3}
    import bench_posttrain_sides

    labels = torch.tensor([[1, -100, 5, 6], [-100, 7, -100, -100]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    counted = bench_posttrain_sides.counted
    assert list(counted({"labels": labels, "attention_mask": mask})) == [6, 3, 8]
    assert list(counted({"labels": labels})) == [8, 3, 8]


def _held_out(recipe: Recipe) -> int:
    return int(recipe.artifact("shards").counts["validation"]["documents"])
