"""Fine-tuning on conversations, of all weights and of adapters, keeps what the loop promises: a run goes on bit for
bit, several processes learn what one learns, a poisoned step never reaches the weights, the account sums to the clock.
"""

from __future__ import annotations

import json
import math
import random
import time

import pytest

import slm.corpus
import slm.shards
import slm.tokenizer
import slm.train
from slm.core.batch import IGNORED
from slm.core.errors import UserError
from slm.recipe import build_recipe
from slm.train import loop
from slm.train.ledger import read_ledger, totals
from tests.train.conftest import settings
from tests.train.test_parallel import SHAPE, agree, launch

HOW = {"all": {}, "adapter": {"lora": {"rank": 4, "alpha": 8}}}
SHORT = {**SHAPE, "log_every_steps": 1}
NAMES = "alder birch cedar dogwood elm fir gum hazel ivy juniper kapok larch maple nutmeg oak pine"
WORDS = NAMES.split(" ")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """`begun("name", **train)`: a recipe that begins with a model of the same conversations' vocabulary."""
    base = tmp_path_factory.mktemp("conversations")
    draw = random.Random(0)
    with (base / "text.jsonl").open("w") as stream:
        for _ in range(200):
            asked, said = (" ".join(draw.choices(WORDS, k=draw.randint(1, 5))) for _ in range(2))
            stream.write(json.dumps({"prompt": asked, "completion": said}) + "\n")
    values = settings(base, "base")
    values["corpus"]["sources"][0]["conversations"] = "prompt_completion"
    values["shards"]["seq_len"] = 48
    values["train"] |= {"tokens": 8 * 384, "batch_tokens": 384, "evaluate_every_steps": 0}
    recipe = build_recipe(values)
    for stage in (slm.corpus, slm.tokenizer, slm.shards, slm.train):
        stage.run(recipe)

    def make(run, **train):
        made = {name: str(recipe.folder(name)) for name in ("corpus", "tokenizer", "shards")}
        trained = {**values["train"], **SHORT, "initial": str(base / "runs" / "base"), **train}
        return build_recipe({**values, "run": run, "artifacts": made, "train": trained})

    return make


@pytest.fixture(scope="module")
def whole(begun):
    """A run of each kind that nothing happened to, and the seconds that it took."""
    recipes = {}
    for name, how in HOW.items():
        began = time.perf_counter()
        recipe = begun(f"whole-{name}", **how)
        slm.train.run(recipe)
        recipes[name] = (recipe, time.perf_counter() - began)
    return recipes


@pytest.mark.parametrize("name", HOW)
def test_it_goes_on_bit_for_bit_after_dying(begun, whole, name, train_dying_in, hashes, figures):
    broken = begun(f"broken-{name}", **HOW[name])
    train_dying_in(broken, 4)
    assert hashes(broken) == hashes(whole[name][0])
    assert figures(broken) == figures(whole[name][0])


def test_two_processes_learn_what_one_learns_by_replicas_and_by_shards(begun, whole):
    recipes = {
        (name, parallel): begun(f"{parallel}-{name}", **how, parallel=parallel)
        for name, how in HOW.items()
        for parallel in ("ddp", "full_shard")
    }
    done = launch(2, *((recipe, "") for recipe in recipes.values()))
    assert done.returncode == 0, done.stdout + done.stderr
    for (name, _), recipe in recipes.items():
        agree(recipe, whole[name][0])


@pytest.mark.parametrize("name", HOW)
def test_a_poisoned_step_is_left_out_and_counted(begun, name, monkeypatch, figures):
    honest, steps = loop.forward_backward, []

    def poisoned(run, batches, clip_norm):
        steps.append({key: tensor.clone() for key, tensor in run.state.model.state_dict().items()})
        loss, norm = honest(run, batches, clip_norm)
        return (math.nan, norm) if len(steps) == 2 else (loss, norm)

    monkeypatch.setattr(loop, "forward_backward", poisoned)
    recipe = begun(f"poisoned-{name}", **HOW[name])
    end = slm.train.run(recipe)
    assert [row["step"] for row in figures(recipe) if row["kind"] == "skip"] == [2]
    assert json.loads(end.file("state.json").read_text())["guard"]["skipped"] == 1
    before, after, last = steps[1:4]
    assert all(bool((before[key] == after[key]).all()) for key in before)
    assert any(bool((after[key] != last[key]).any()) for key in after)


@pytest.mark.parametrize("name", HOW)
def test_the_account_sums_to_the_wall_clock(whole, name):
    recipe, seconds = whole[name]
    (line,) = read_ledger(recipe.folder("train"))
    assert sum(totals([line]).values()) == pytest.approx(seconds, rel=0.02, abs=0.05)
    assert line["step"] == 4


def test_only_the_assistants_words_are_learned_and_the_checkpoint_says_what_they_were(begun, watched):
    recipe = begun("watched")
    end = slm.train.run(recipe)
    targets = [batch.targets_BT for batches in watched for batch in batches]
    assert sum(int((target != IGNORED).sum()) for target in targets) < 0.5 * sum(target.numel() for target in targets)
    assert end.counts["conversations"] is True
    assert "conversations" in recipe.artifact("shards").counts


def test_a_curriculum_that_would_cut_answers_from_their_questions_is_refused(begun):
    recipe = begun("cut", curriculum={"lengths": [24], "shares": [0.5]})
    with pytest.raises(UserError, match=r"train\.curriculum cuts rows, .* without what was asked; leave it out"):
        slm.train.run(recipe)
