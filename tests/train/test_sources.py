"""Loss by source, and shares that follow it: planted sources, exact resumption, the same in two processes."""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import slm.corpus
import slm.shards
import slm.tokenizer
import slm.train
from slm.core.batch import Batch
from slm.core.distributed import SOLO
from slm.core.errors import ProblemsError, UserError
from slm.recipe import Recipe, build_recipe
from slm.train import loop
from slm.train.config import SourceSamplingConfig
from slm.train.sources import SourceLosses, SourceSampler, sampler_for
from tests.train.readings import figures, hashes

CHOSEN = {"kind", "step", "tokens", "loss", "lr", "grad_norm", "reason", "first_row", "end_row", "to_step", "rewinds"}
FOLLOW = {"every_steps": 3, "strength": 2.0, "ema_decay": 0.5, "min_share": 0.1}
STEPS = 30
PROGRAM = Path(__file__).with_name("processes.py")
MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def two_sources(tmp_path_factory: pytest.TempPathFactory, make_recipe: MakeRecipe) -> MakeRecipe:
    """Recipes over two sources of equal size: `plain` says one word over and over, `rich` has many to learn."""
    base = tmp_path_factory.mktemp("sources")
    words = ["".join(random.Random(n).choices("abcdefghijklmnop", k=4)) for n in range(60)]
    source = random.Random(0)
    for name, vocabulary in (("plain", ["same"]), ("rich", words)):
        texts = [" ".join(source.choices(vocabulary, k=60)) for _ in range(150)]
        lines = "".join(json.dumps({"text": f"{number} {text}"}) + "\n" for number, text in enumerate(texts))
        (base / f"{name}.jsonl").write_text(lines)

    def make(run: str, **train: Any) -> Recipe:
        values = make_recipe(run, runs_dir=str(base / "runs")).model_dump(mode="json")
        named = [{"kind": "jsonl", "name": name, "path": str(base / f"{name}.jsonl"), "licence": "CC0-1.0",
                  "origin": "made up"} for name in ("plain", "rich")]  # fmt: skip
        values["corpus"]["sources"] = named
        values["train"].update(
            {"tokens": STEPS * 256, "evaluate_every_steps": 0, "save_every_steps": 4, "optimizer": {"lr": 0.02}},
            **train,
        )
        stages = ("corpus", "tokenizer", "shards")
        values["artifacts"] = {} if run == "data" else {stage: str(base / "runs/data" / stage) for stage in stages}
        return build_recipe(values)

    data = make("data")
    slm.corpus.run(data)
    slm.tokenizer.run(data)
    slm.shards.run(data)
    return make


def train_rows(recipe: Recipe) -> list[dict[str, Any]]:
    return [row for row in figures(recipe) if row["kind"] == "train"]


@pytest.fixture(scope="module")
def followed(two_sources: MakeRecipe) -> Recipe:
    recipe = two_sources("followed", source_sampling=FOLLOW)
    slm.train.run(recipe)
    return recipe


@torch.no_grad()
def by_hand(run: loop.Run, batches: list[Batch]) -> tuple[list[float], list[int]]:
    """Nats and targets of each source, from plain logits, a row at a time."""
    nats, targets = [0.0, 0.0], [0, 0]
    for batch in batches:
        for row, source in enumerate(batch.sources_B.tolist()):
            one = slice(row, row + 1)
            logits_TV = run.state.model(
                batch.tokens_BT[one], positions_BT=batch.positions_BT[one], documents_BT=batch.documents_BT[one]
            )[0]
            nats[source] += float(torch.nn.functional.cross_entropy(logits_TV, batch.targets_BT[row], reduction="sum"))
            targets[source] += int((batch.targets_BT[row] >= 0).sum())
    return nats, targets


def test_each_train_row_tells_the_loss_of_each_source(two_sources):
    recipe = two_sources("told")
    run = loop.prepare(recipe, slm.train.specification(recipe))
    batches = loop.next_batches(run, recipe, 256)
    loss, _ = loop.forward_backward(run, batches, 1.0)
    found = run.sources.finish(SOLO)
    nats, targets = by_hand(run, batches)
    assert found == pytest.approx({"plain": nats[0] / targets[0], "rich": nats[1] / targets[1]}, rel=1e-5)
    assert loss == pytest.approx(sum(nats) / sum(targets), rel=1e-5)
    assert run.sources.finish(SOLO) == {}  # begins anew with each step
    slm.train.run(recipe)
    rows = train_rows(recipe)
    assert len(rows) == STEPS
    assert sum({"loss/plain", "loss/rich"} < set(row) for row in rows) > STEPS / 2
    assert all("loss/plain" in row or "loss/rich" in row for row in rows)
    assert not any(key.startswith("share/") for row in rows for key in row)


def test_rows_know_their_source_also_when_they_are_cut(two_sources):
    recipe = two_sources("cut", curriculum={"lengths": [8], "shares": [0.5]})
    run = loop.prepare(recipe, slm.train.specification(recipe))
    ranges = list(run.state.loader.reader.ranges.values())
    rows = run.state.loader.rows_at(0, 8)
    batches = loop.next_batches(run, recipe, 256)
    found = torch.cat([batch.sources_B for batch in batches]).tolist()
    assert found == [int(row in ranges[1]) for row in rows for _ in range(4)]


def test_a_run_reads_the_sources_it_names_and_resumes_bit_for_bit(two_sources, train_dying_in):
    unbroken = two_sources("rich-alone", sources=["rich"])
    slm.train.run(unbroken)
    rows = train_rows(unbroken)
    assert len(rows) == STEPS
    assert all("loss/rich" in row and "loss/plain" not in row for row in rows)
    assert all(row["loss/rich"] == pytest.approx(row["loss"], rel=1e-5) for row in rows)
    killed = two_sources("rich-killed", sources=["rich"])
    train_dying_in(killed, 9)
    assert figures(killed) == figures(unbroken)
    assert hashes(killed) == hashes(unbroken)


def test_with_one_source_nothing_is_told(make_recipe):
    recipe = make_recipe("one-source", tokens=256)
    slm.train.run(recipe)
    assert not any("/" in key for row in figures(recipe) for key in row)


def test_a_planted_source_with_more_to_learn_gains_share(followed):
    tallies = followed.artifact("shards").counts["sources"]
    natural = tallies["rich"]["rows"] / (tallies["rich"]["rows"] + tallies["plain"]["rows"])
    rows = train_rows(followed)
    assert rows[0]["share/rich"] == pytest.approx(0.1 + 0.8 * natural, abs=1e-3)
    last = next(row for row in reversed(rows) if {"loss/plain", "loss/rich"} < set(row))
    assert last["loss/rich"] > last["loss/plain"] + 0.5
    assert rows[-1]["share/rich"] > rows[0]["share/rich"] + 0.15
    assert all(row["share/plain"] + row["share/rich"] == 1 for row in rows)
    assert all(row["share/plain"] >= 0.1 - 1 / 1024 for row in rows)
    changes = [row["step"] for before, row in itertools.pairwise(rows) if before["share/rich"] != row["share/rich"]]
    assert changes
    assert all(step % 3 == 1 for step in changes)  # the step after each third
    loader = json.loads(followed.artifact("train").file("state.json").read_text())["loader"]
    late = loader["sources"]["rich"] - loader["segments"][-4]["taken"]["rich"]
    assert late / (loader["row"] - loader["segments"][-4]["first"]) > 0.6  # the stream itself has followed


def test_a_floor_takes_the_pull_of_what_cannot_be_learned(two_sources):
    recipe = two_sources("floored", source_sampling={**FOLLOW, "floors": {"rich": 6.0}})
    slm.train.run(recipe)
    assert train_rows(recipe)[-1]["share/rich"] < 0.3


@pytest.mark.parametrize("deaths", [(8, 11), (14,)])
def test_a_run_whose_shares_change_resumes_bit_for_bit(two_sources, followed, train_dying_in, deaths):
    recipe = two_sources(f"followed-{len(deaths)}", source_sampling=FOLLOW)
    train_dying_in(recipe, *deaths)
    assert figures(recipe) == figures(followed)
    assert hashes(recipe) == hashes(followed)


def test_a_rewind_keeps_the_stream_and_resumes_bit_for_bit(two_sources, monkeypatch):
    honest = loop.forward_backward
    calls = dies = 0

    def sick(run: Any, *rest: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == dies:
            raise RuntimeError
        loss, norm = honest(run, *rest)
        bad = run.state.loader.step_row // 8 in (12, 13, 14)
        return (math.nan if bad else loss), norm

    monkeypatch.setattr(loop, "forward_backward", sick)
    hurt = {"source_sampling": FOLLOW, "guard": {"max_skips": 3}, "tokens": 20 * 256}
    unbroken, stopped = (two_sources(name, **hurt) for name in ("hurt", "hurt-stopped"))
    slm.train.run(unbroken)
    assert [row["to_step"] for row in figures(unbroken) if row["kind"] == "rewind"] == [12]
    report = json.loads(next(unbroken.folder("train").glob("autopsy-*.json")).read_text())
    assert {row["row"] for row in report["rows"]} == set(range(96, 120))
    calls, dies = 0, 17  # after the rewind, before the next save
    with pytest.raises(RuntimeError):
        slm.train.run(stopped)
    slm.train.run(stopped)
    assert figures(stopped) == figures(unbroken)
    assert hashes(stopped) == hashes(unbroken)


def test_two_processes_come_to_the_same_shares_and_rows(two_sources, followed, tmp_path):
    recipe = two_sources("followed-by-two", source_sampling=FOLLOW)
    file = tmp_path / "recipe.json"
    file.write_text(recipe.model_dump_json())
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*start, str(PROGRAM), str(file)], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (json.loads(each.artifact("train").file("state.json").read_text()) for each in (followed, recipe))
    assert two["loader"] == one["loader"]  # segments, counters and cursor, to the row
    assert two["sampler"]["losses"] == pytest.approx(one["sampler"]["losses"], abs=1e-3)  # in nats


def test_shares_are_those_of_the_start_for_equal_losses_and_follow_the_formula():
    config = SourceSamplingConfig(every_steps=1, strength=2.0, ema_decay=0.5, min_share=0.05, floors={"c": 1.0})
    sampler = SourceSampler(config, {"a": 0.5, "b": 0.3, "c": 0.2})
    start = {"a": 0.05 + 0.85 * 0.5, "b": 0.05 + 0.85 * 0.3, "c": 0.05 + 0.85 * 0.2}
    assert sampler.shares() == pytest.approx(start)
    sampler.observe({"a": 3.0, "b": 3.0, "c": 4.0})
    assert sampler.shares() == pytest.approx(start)
    sampler.observe({"b": 4.0})  # now 3.5 on average, and a step without rows of the others
    pulls = {"a": 0.5, "b": 0.3 * math.e, "c": 0.2}
    expected = {name: 0.05 + 0.85 * pull / sum(pulls.values()) for name, pull in pulls.items()}
    assert sampler.shares() == pytest.approx(expected)
    again = SourceSampler(config, {"a": 0.5, "b": 0.3, "c": 0.2})
    again.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert again.shares() == sampler.shares()
    sampler.observe({"a": 90.0})
    assert min(sampler.shares().values()) >= 0.05
    assert sum(sampler.shares().values()) == pytest.approx(1)


def test_losses_of_one_source_are_not_added_up():
    assert SourceLosses(["only"], "cpu").finish(SOLO) == {}


def test_one_source_is_refused(make_recipe):
    recipe = make_recipe("lonely", source_sampling=FOLLOW)
    with pytest.raises(UserError, match=r"every_steps \(3\) needs shards of at least two .* only jsonl; set it to 0"):
        slm.train.run(recipe)


def test_floors_of_unknown_sources_are_refused(two_sources):
    recipe = two_sources("odd", source_sampling={**FOLLOW, "floors": {"poor": 1.0}})
    with pytest.raises(UserError, match=r"floors\.poor must name a source of the shards \(plain, rich\); correct it"):
        slm.train.run(recipe)


def test_shares_that_leave_no_room_are_refused(two_sources):
    shards = copy.deepcopy(two_sources("crowded").artifact("shards"))
    shards.counts["sources"]["third"] = shards.counts["sources"]["rich"]
    fits, crowded = (SourceSamplingConfig(every_steps=1, min_share=share) for share in (0.33, 0.4))
    assert sum(sampler_for(fits, shards).shares().values()) == pytest.approx(1)
    with pytest.raises(
        UserError, match=r"min_share \(0\.4\) x 3 sources must not exceed 1; lower it to at most 0\.333"
    ):
        sampler_for(crowded, shards)


def test_settings_without_every_steps_are_refused(make_recipe):
    with pytest.raises(ProblemsError, match=r"source_sampling: strength has no effect without every_steps \(0\); set"):
        make_recipe("idle", source_sampling={"strength": 2.0})
