"""The micro-batch that is chosen: exact for the global batch, kept on resume, no part of the key."""

from __future__ import annotations

import pytest

import slm.train
from slm.core.errors import ProblemsError, UserError
from slm.recipe import build_recipe
from slm.train import loop, micro_batch
from slm.train.metrics import read_metrics
from slm.train.parallel import Parallel

CHOSEN = "micro_batch_rows"


def losses(recipe):
    return [row["loss"] for row in read_metrics(recipe.folder("train") / "metrics.jsonl") if row["kind"] == "train"]


def test_auto_divides_the_batch_is_recorded_and_learns_the_same(make_recipe, capsys):
    fixed, auto = make_recipe("fixed", tokens=1024), make_recipe("auto", tokens=1024, micro_batch_rows="auto")
    slm.train.run(fixed)
    chosen = slm.train.run(auto).counts[CHOSEN]
    assert 8 % chosen == 0
    assert f"micro-batches of {chosen} rows, the fastest here" in capsys.readouterr().out
    assert losses(auto) == pytest.approx(losses(fixed), rel=1e-5)


@pytest.mark.parametrize("choice", [1, 2, 8])
def test_the_choice_of_the_checkpoint_is_kept_and_does_not_shape_the_key(make_recipe, monkeypatch, choice):
    recipe = make_recipe(f"kept-{choice}", micro_batch_rows="auto", tokens=512)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "choose_micro_batch", lambda *_: choice)
        checkpoint = slm.train.run(recipe)
    assert checkpoint.counts[CHOSEN] == choice
    assert checkpoint.key == slm.train.specification(recipe).key
    monkeypatch.setattr(micro_batch, "_seconds_per_row", lambda *_: pytest.fail("chose again"))
    assert loop.prepare(recipe, slm.train.specification(recipe)).micro_rows == choice


def test_the_largest_that_fits_is_taken_on_a_gpu(make_recipe, monkeypatch):
    recipe = make_recipe("gpu", micro_batch_rows="auto")
    monkeypatch.setattr(micro_batch, "_peak", lambda *given: given[3] * 10)
    monkeypatch.setattr(micro_batch, "_free_bytes", lambda *_: 50)
    assert micro_batch.choose_micro_batch(recipe, 12, None, None, "cuda", "fp32", None, Parallel()) == 4
    monkeypatch.setattr(micro_batch, "_free_bytes", lambda *_: 5)
    with pytest.raises(UserError, match=r"not even one row of 32 tokens fits into the 0\.0 GB that are free; lower"):
        micro_batch.choose_micro_batch(recipe, 12, None, None, "cuda", "fp32", None, Parallel())


def test_rows_may_be_a_number_or_auto_and_steps_stay_whole():
    whole = {"shards": {"seq_len": 128}, "train": {"micro_batch_rows": "auto", "batch_tokens": 128 * 7}}
    assert build_recipe(whole).train.micro_batch_rows == "auto"
    whole["train"]["batch_tokens"] = 1000
    with pytest.raises(ProblemsError, match=r"train\.batch_tokens \(1,000\) must be a multiple of shards\.seq_len"):
        build_recipe(whole)
    for wrong in (0, "fast", 2.5):
        with pytest.raises(ProblemsError, match=rf"train\.micro_batch_rows: must be .* or auto, found {wrong!r}"):
            build_recipe({"train": {"micro_batch_rows": wrong}})
