"""Evaluations that fail: recorded, in all processes, and training goes on; with real processes: test_parallel.py."""

from __future__ import annotations

import weakref

import pytest
import torch

import slm.train
from slm.core.distributed import SOLO
from slm.train import evaluation, loop
from slm.train.evaluation import EvaluationError, Setback


def test_after_the_first_thing_that_went_wrong_nothing_is_attempted():
    setback = Setback()
    assert setback.attempt(int, "7") == 7
    setback.share(SOLO)
    assert setback.attempt(int, "seven\nor so") is None
    assert setback.attempt(lambda: pytest.fail("attempted")) is None
    with pytest.raises(EvaluationError, match=r"^ValueError: invalid literal for int\(\) with base 10: 'seven"):
        setback.share(SOLO)


def test_what_one_process_met_is_what_all_raise():
    class Others:
        def together(self, work):
            return ["", work(), "OSError: no such rows"]

    with pytest.raises(EvaluationError, match="OSError: no such rows"):
        Setback().share(Others())


def test_a_request_to_stop_is_no_failure():
    def told():
        raise KeyboardInterrupt

    setback = Setback()
    with pytest.raises(KeyboardInterrupt):
        setback.attempt(told)
    assert setback.reason == ""


def test_a_sample_that_fails_is_recorded_beside_the_loss(make_recipe, unbroken, figures, hashes, monkeypatch):
    recipe = make_recipe("speechless", sample_prompts=["def ", "class"])
    honest, count = evaluation.continuation, 0

    def failing(*arguments):
        nonlocal count
        count += 1
        if count == 2:
            raise MemoryError("no words")
        return honest(*arguments)

    monkeypatch.setattr(evaluation, "continuation", failing)
    slm.train.run(recipe)
    kinds = [row["kind"] for row in figures(recipe) if row["step"] == 5 and row["kind"] != "train"]
    assert kinds == ["evaluate", "sample", "evaluate_failed"]
    assert [row["reason"] for row in figures(recipe) if "reason" in row] == ["MemoryError: no words"]
    assert len([row for row in figures(recipe) if row["kind"] == "sample"]) == 5
    assert hashes(recipe) == hashes(unbroken)


def test_rows_without_targets_are_no_loss(make_recipe):
    recipe = make_recipe("no-targets")
    run = loop.prepare(recipe, slm.train.specification(recipe))
    run.evaluator._rows = 0
    with pytest.raises(EvaluationError, match="the held-out rows have no targets"):
        run.evaluator(run.state.published, run.stop)


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (lambda: torch.empty(1 << 50), "RuntimeError: "),  # more than any address space: torch's allocator refuses
        (lambda: bytearray(1 << 60), "MemoryError: "),
        (lambda: {}["no such key"], "KeyError: 'no such key'"),
    ],
)
def test_an_evaluation_that_fails_is_recorded_and_the_run_goes_on(
    make_recipe, unbroken, figures, hashes, monkeypatch, capsys, fail, reason
):
    recipe = make_recipe(f"evaluation-{reason[:5]}")
    read_batch, forward_backward, held = evaluation.read_batch, loop.forward_backward, []

    def failing(*arguments):
        batch = read_batch(*arguments)
        held.append(weakref.ref(batch.tokens_BT))
        return fail()

    def watching(*arguments):
        assert not [tensor for tensor in held if tensor() is not None], "the failed evaluation holds memory"
        return forward_backward(*arguments)

    monkeypatch.setattr(evaluation, "read_batch", failing)
    monkeypatch.setattr(loop, "forward_backward", watching)
    slm.train.run(recipe)
    failures = [row for row in figures(recipe) if row["kind"] == "evaluate_failed"]
    assert [row["step"] for row in failures] == [5, 10, 12]
    assert all(row["reason"].startswith(reason) for row in failures)
    others = [row for row in figures(unbroken) if row["kind"] != "evaluate"]
    assert [row for row in figures(recipe) if row["kind"] != "evaluate_failed"] == others
    assert hashes(recipe) == hashes(unbroken)
    assert capsys.readouterr().out.count("train: the evaluation at step 5 failed") == 1
    assert len(held) == 3
