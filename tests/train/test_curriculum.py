"""Rows cut shorter: the same tokens and targets, nothing seen across a cut, the same on resuming."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import slm.train
from slm.core.batch import Batch
from slm.core.errors import ProblemsError
from slm.model.transformer import build
from slm.recipe import Recipe, build_recipe
from slm.shards.loader import collate
from slm.train import loop
from slm.train.config import CurriculumConfig
from slm.train.curriculum import cut, row_length, shares
from slm.train.plan import plan
from tests.train.readings import hashes

SHORT_FIRST = {"lengths": [4, 16], "shares": [0.25, 0.25]}


def batch_of(lengths: list[list[int]], seq_len: int) -> Batch:
    tokens_BT = np.random.default_rng(0).integers(4, 400, (len(lengths), seq_len)).astype(np.uint16)
    return collate(tokens_BT, [np.array(row, dtype=np.int32) for row in lengths], 3)


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(1, 12), max_size=4), min_size=1, max_size=4), st.sampled_from([2, 4, 12, 24]))
def test_a_cut_equals_a_token_by_token_reference(rows, length):
    lengths = [row if sum(row) <= 48 else [48] for row in rows]
    whole = batch_of(lengths, 48)
    short = cut(whole, length)
    assert short.tokens_BT.shape == (len(rows) * 48 // length, length)
    assert torch.equal(short.tokens_BT.flatten(), whole.tokens_BT.flatten())
    assert torch.equal(short.targets_BT.flatten(), whole.targets_BT.flatten())
    assert short.num_targets == whole.num_targets
    for place in range(len(rows) * 48):
        b, t = divmod(place, 48)
        n, inside = divmod(place, length)
        document, position = int(whole.documents_BT[b, t]), int(whole.positions_BT[b, t])
        first = int(whole.documents_BT[b, t - inside])
        assert short.documents_BT[n, inside] == (document - first if document >= 0 else -1)
        assert short.positions_BT[n, inside] == min(position, inside)
    assert (short.documents_BT.dtype, short.positions_BT.dtype) == (torch.int32, torch.int64)


def test_a_piece_is_computed_as_if_it_stood_alone():
    recipe = build_recipe({"model": {"vocab_size": 400, "width": 32, "layers": 2, "heads": 2, "kv_heads": 1,
                                     "head_dim": 16, "ffn_width": 64}, "tokenizer": {"vocab_size": 400}})  # fmt: skip
    model = build(recipe.model, 0)
    short = cut(batch_of([[20, 12], [5, 3, 20]], 32), 8)
    with torch.no_grad():
        logits_NLV = model(short.tokens_BT, positions_BT=short.positions_BT, documents_BT=short.documents_BT)
        for n in range(len(short.tokens_BT)):
            for document in short.documents_BT[n].unique().tolist():
                here = short.documents_BT[n] == document
                alone = model(short.tokens_BT[n][here].unsqueeze(0))[0]
                if document >= 0:
                    torch.testing.assert_close(logits_NLV[n][here], alone, rtol=1e-4, atol=1e-5)


def test_a_batch_that_is_short_enough_is_left_alone():
    batch = batch_of([[8]], 8)
    assert cut(batch, 8) is batch


def test_lengths_follow_the_tokens_and_end_on_whole_rows():
    config = CurriculumConfig(lengths=(8, 16), shares=(0.1, 0.4))
    found = [row_length(config, tokens, 1000, 64) for tokens in (0, 99, 100, 499, 500, 999)]
    assert found == [8, 8, 16, 16, 64, 64]
    assert row_length(CurriculumConfig(), 0, 1000, 64) == 64
    assert shares(config, 64) == pytest.approx({8: 0.1, 16: 0.4, 64: 0.5})


def flat(steps: list[list[Batch]], name: str) -> list[list[int]]:
    return [torch.cat([getattr(batch, name).flatten() for batch in step]).tolist() for step in steps]


def test_a_run_takes_the_same_tokens_a_step_in_rows_that_grow(make_recipe, watched):
    slm.train.run(make_recipe("whole-rows"))
    whole = watched.copy()
    watched.clear()
    recipe = make_recipe("short-first", curriculum=SHORT_FIRST)
    slm.train.run(recipe)
    assert [{batch.tokens_BT.shape[1] for batch in step} for step in watched] == [{4}] * 3 + [{16}] * 3 + [{32}] * 6
    for name in ("tokens_BT", "targets_BT"):
        assert flat(watched, name) == flat(whole, name)
    assert all(sum(batch.tokens_BT.numel() for batch in step) == 256 for step in watched)
    assert recipe.artifact("train").counts["tokens"] == 12 * 256


def test_a_run_with_a_curriculum_resumes_bit_for_bit(make_recipe, train_dying_in):
    unbroken, stopped = (make_recipe(name, curriculum=SHORT_FIRST) for name in ("graded", "graded-stopped"))
    slm.train.run(unbroken)
    train_dying_in(stopped, 6, 9)  # in the second phase; then, after the save at step 4, in the third
    assert hashes(stopped) == hashes(unbroken)


def test_evaluation_takes_whole_rows(make_recipe, monkeypatch):
    recipe = make_recipe("measured", curriculum=SHORT_FIRST)
    run = loop.prepare(recipe, slm.train.specification(recipe))
    widths = []
    honest = run.evaluator._objective
    monkeypatch.setattr(
        run.evaluator,
        "_objective",
        lambda model, batch: widths.append(batch.tokens_BT.shape[1]) or honest(model, batch),
    )
    run.evaluator(run.state.model, run.stop)
    assert set(widths) == {32}


def test_the_plan_counts_the_keys_that_short_rows_see(make_recipe: Callable[..., Recipe], capsys):
    whole, graded = make_recipe("plan-whole"), make_recipe("plan-graded", curriculum=SHORT_FIRST)
    per_key = 12 * 2 * 2 * 16 * 12 * 256  # 12 x layers x heads x head_dim of the shape, over all tokens
    fewer = per_key * (33 / 2 - (0.25 * 5 / 2 + 0.25 * 17 / 2 + 0.5 * 33 / 2))
    assert plan(whole).flops - plan(graded).flops == pytest.approx(fewer)
    loop.prepare(graded, slm.train.specification(graded))
    assert "rows of 4 tokens for 25 %, 16 tokens for 25 %, 32 tokens for 50 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("curriculum", "message"),
    [
        ({"lengths": [4]}, r"lengths \(1 of them\) must be as many as shares \(0\); give each"),
        ({"lengths": [4, 8], "shares": [0.5, 0.5]}, r"shares \(0.5, 0.5\) must each be above 0 and together below 1"),
        ({"lengths": [8, 4], "shares": [0.1, 0.1]}, r"lengths \(8, 4\) must be at least 2 and rise; put the shortest"),
        (
            {"lengths": [12], "shares": [0.1]},
            r"lengths \(12\) must divide shards\.seq_len \(32\) .* nearest below is 8",
        ),
        ({"lengths": [32], "shares": [0.1]}, r"lengths \(32\) must divide shards\.seq_len \(32\) and be shorter"),
    ],
)
def test_lengths_and_shares_that_do_not_fit_are_refused(make_recipe, curriculum, message):
    with pytest.raises(ProblemsError, match=rf"train\.curriculum.*{message}"):
        make_recipe("refused", curriculum=curriculum)
