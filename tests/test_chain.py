"""Runs one after the other, by real processes: what each begins with, what is kept, and what is refused."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from typing import Any

import pytest

import slm.train
from slm import chain
from slm.core.errors import ProblemsError, UserError
from slm.recipe import Recipe
from slm.sweep.process import run_folder
from tests.tiny_run import tiny_recipe, write_source

WORDS = "def return import self None for in range yield class == lambda pass while".split()  # noqa: SIM905
STEPS = [
    {"name": "whole", "settings": {"train.tokens": 8 * 256}},
    {"name": "lora", "settings": {"train.lora.rank": 2, "train.tokens": 4 * 256}},
]
VARIANT = {"name": "int8", "method": "rtn", "bits": 8, "group_size": 0, "max_kl": 5.0}
PRETENDING = (sys.executable, str(Path(__file__).with_name("sweep") / "pretending.py"))


def recipe_in(folder: Path, steps: list[dict[str, Any]]) -> Recipe:
    draw = random.Random(3)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(20, 120))) for _ in range(80)]
    compress = {"variants": [VARIANT], "positions": 16}
    sources = [write_source(folder, "code", texts)]
    return tiny_recipe(folder, sources, "chained", sweep={"chain": steps}, compress=compress)


def artifacts(runs: list[Recipe]) -> list[str]:
    stages = ("train", "evaluate")
    found = [one.artifact(stage) for one in runs for stage in stages]
    return [one.fingerprint for one in [*found, runs[-1].artifact("compress")]]


def test_each_step_begins_with_the_one_before_and_nothing_is_made_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_in(tmp_path, STEPS)
    chain.run(recipe)
    runs = chain.steps(recipe)
    first, last = (one.artifact("train") for one in runs)
    assert last.manifest["parents"]["initial"]["fingerprint"] == first.fingerprint
    assert "initial" not in first.manifest["parents"]
    compressed = runs[-1].artifact("compress")
    assert compressed.manifest["parents"]["train"]["fingerprint"] == last.fingerprint
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line[1:] for line in lines if line and line[0] in ("whole", "lora", "int8")}
    assert list(rows) == ["whole", "lora", "int8"]
    assert rows["int8"][0] == "–"
    assert rows["int8"][1] == f"{compressed.counts['variants']['int8']['increase']:+.4f}"
    assert rows["whole"][-2:] == rows["lora"][-2:], "merged weights are as large as those before"
    assert (run_folder(recipe) / "chain" / "chain.html").read_text().count("<svg") >= 1
    made = artifacts(runs)
    chain.run(recipe)
    assert artifacts(runs) == made
    said = (run_folder(runs[1]) / "output.txt").read_text()
    assert said.count("train: up to date") == said.count("compress: up to date") == 1
    distill = recipe.objective.distill.model_copy(update={"teacher": str(run_folder(runs[0]))})
    taught = recipe.model_copy(update={"objective": recipe.objective.model_copy(update={"distill": distill})})
    teacher = chain.teacher_of(taught)
    assert teacher is not None
    assert teacher.fingerprint == runs[0].artifact("evaluate").fingerprint
    slm.train.run(runs[0].model_copy(update={"redo": True, "seed": 99}))
    capsys.readouterr()
    assert chain.teacher_of(taught) is None, "what was evaluated is not who teaches"
    assert "chain: the teacher has no row: " in capsys.readouterr().out


def test_a_step_that_fails_is_named_and_the_others_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm.sweep.process.COMMAND", PRETENDING)
    settings = {"train.optimizer.lr": 0.9, "train.evaluate_every_steps": 4}
    recipe = recipe_in(tmp_path, [{**STEPS[0], "settings": settings}, STEPS[1]])
    for stage in ("corpus", "tokenizer", "shards"):
        importlib.import_module(f"slm.{stage}").run(recipe)
    with pytest.raises(UserError, match=r"chained/chain/whole failed: .* is too high; lower it \(see .*whole\); the s"):
        chain.run(recipe)


@pytest.mark.parametrize(
    ("steps", "finding"),
    [
        (
            [{"name": "a", "settings": {"shards.seq_len": 64}}],
            r"sweep\.chain\.a\.settings \(shards\.seq_len\) must name",
        ),
        ([{"name": "a", "settings": {"train.schedule": {}}}], r"\(train\.schedule\) is a section; name the keys in it"),
        ([{"name": "a", "settings": {"train.tokns": 1}}], r"train\.tokns: no such key; did you mean tokens"),
        ([{"name": "a"}, {"name": "a"}], "a stands there twice"),
    ],
    ids=["rows", "section", "unknown", "twice"],
)
def test_steps_that_cannot_be_are_refused(tmp_path: Path, steps: list[dict[str, Any]], finding: str) -> None:
    with pytest.raises(ProblemsError, match=finding):
        recipe_in(tmp_path, steps)


def test_a_chain_without_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sweep\.chain is empty"):
        chain.run(recipe_in(tmp_path, []))
