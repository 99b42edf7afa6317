"""What a step trains on depends on seed, plan and position alone; collation equals a plain reference."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slm.core.artifact import Artifact
from slm.core.batch import IGNORED, Batch
from slm.core.errors import DamagedError, UserError
from slm.shards.loader import Loader, collate

SETTINGS = {"batch_rows": 24, "micro_batch_rows": 2, "seed": 3}


@pytest.fixture
def shards(make_shards, documents) -> Artifact:
    return make_shards({"a": documents(150), "b": documents(60, seed=1)})


def rows_of(batches: list[Batch]) -> list[tuple[int, ...]]:
    return [tuple(row) for batch in batches for row in batch.tokens_BT.tolist()]


def equal(one: list[Batch], other: list[Batch]) -> bool:
    names = ("tokens_BT", "targets_BT", "documents_BT", "positions_BT")
    return len(one) == len(other) and all(
        torch.equal(getattr(a, name), getattr(b, name)) for a, b in zip(one, other, strict=True) for name in names
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 8), max_size=6), min_size=1, max_size=6))
def test_collation_equals_a_token_by_token_reference(rows):
    seq_len, pad = max(1, *(sum(row) for row in rows)), 3
    tokens = np.random.default_rng(0).integers(4, 99, (len(rows), seq_len)).astype(np.uint16)
    batch = collate(tokens, [np.array(row, dtype=np.int32) for row in rows], pad)
    assert batch.num_targets == int((batch.targets_BT != IGNORED).sum())
    for b, row in enumerate(rows):
        place = 0
        for number, length in enumerate(row):
            for position in range(length):
                here = (b, place)
                assert batch.tokens_BT[here] == tokens[here]
                assert batch.documents_BT[here] == number
                assert batch.positions_BT[here] == position
                expected = tokens[b, place + 1] if position + 1 < length else IGNORED
                assert batch.targets_BT[here] == expected
                place += 1
        assert (batch.tokens_BT[b, place:] == pad).all()
        assert (batch.documents_BT[b, place:] == -1).all()
        assert (batch.targets_BT[b, place:] == IGNORED).all()
        assert (batch.positions_BT[b, place:] >= 0).all()
        assert (batch.positions_BT[b, place:] < seq_len).all()
    types = (batch.tokens_BT.dtype, batch.targets_BT.dtype, batch.documents_BT.dtype, batch.positions_BT.dtype)
    assert types == (torch.int64, torch.int64, torch.int32, torch.int64)


@pytest.mark.parametrize("weights", [{}, {"a": 0.3, "b": 0.7}])
def test_ranks_and_micro_batches_divide_the_same_rows(make_shards, documents, weights):
    shards = make_shards({"a": documents(150), "b": documents(60, seed=1)}, weights=weights)
    whole = Loader(shards, batch_rows=24, micro_batch_rows=24, seed=3)
    expected = [rows_of(whole.step()) for _ in range(12)]  # crosses an epoch
    for world_size, micro in ((1, 1), (1, 6), (2, 3), (2, 12), (3, 2), (3, 8), (4, 1), (4, 6)):
        loaders = [
            Loader(shards, batch_rows=24, micro_batch_rows=micro, seed=3, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for step in expected:
            parts = [loader.step() for loader in loaders]
            assert all(len(part) == 24 // world_size // micro for part in parts)
            interleaved = [row for rows in zip(*map(rows_of, parts), strict=True) for row in rows]
            assert interleaved == step
        assert all(loader.state_dict() == whole.state_dict() for loader in loaders)


def test_an_epoch_covers_every_row_once_though_its_border_lies_inside_a_batch(shards):
    loader = Loader(shards, batch_rows=24, micro_batch_rows=24, seed=3)
    rows = loader.reader.num_rows
    assert rows % 24
    stored = Counter(map(tuple, loader.reader.rows(range(rows))[0].tolist()))
    seen: list[tuple[int, ...]] = []
    while len(seen) < 2 * rows:
        seen += rows_of(loader.step())
    assert Counter(seen[:rows]) == stored
    assert Counter(seen[rows : 2 * rows]) == stored
    assert seen[:rows] != seen[rows : 2 * rows]


def test_every_target_of_every_document_is_trained_on_once_an_epoch(make_shards, documents):
    texts = documents(80)
    loader = Loader(make_shards({"a": texts}), batch_rows=1, micro_batch_rows=1, seed=0)
    found: Counter[tuple[int, int]] = Counter()
    for _ in range(loader.reader.num_rows):
        (batch,) = loader.step()
        chosen = batch.targets_BT != IGNORED
        found.update(zip(batch.tokens_BT[chosen].tolist(), batch.targets_BT[chosen].tolist(), strict=True))
    expected = Counter((int(a), int(b)) for text in texts for a, b in itertools.pairwise(text))
    assert found == expected


def test_resumed_loader_continues_exactly(shards):
    unbroken = Loader(shards, **SETTINGS)
    steps = [unbroken.step() for _ in range(10)]
    first = Loader(shards, **SETTINGS)
    for _ in range(4):
        first.step()
    state = json.loads(json.dumps(first.state_dict()))
    resumed = Loader(shards, **SETTINGS)
    resumed.step()
    resumed.load_state_dict(state)
    assert all(equal(resumed.step(), step) for step in steps[4:])
    assert resumed.state_dict() == unbroken.state_dict()


def test_a_step_undone_is_read_again(shards):
    loader = Loader(shards, **SETTINGS)
    loader.step()
    before = loader.state_dict()
    first = loader.step()
    loader.undo()
    assert loader.state_dict() == before
    assert equal(loader.step(), first)


def test_another_batch_size_goes_on_in_the_same_order(shards):
    whole = rows_of(Loader(shards, batch_rows=48, micro_batch_rows=48, seed=3).step())
    loader = Loader(shards, batch_rows=24, micro_batch_rows=24, seed=3)
    first = rows_of(loader.step())
    other = Loader(shards, batch_rows=8, micro_batch_rows=8, seed=3)
    other.load_state_dict(loader.state_dict())
    assert first + [row for _ in range(3) for row in rows_of(other.step())] == whole


def test_prefetching_does_not_change_the_data(shards):
    ahead, plain = (Loader(shards, **SETTINGS, prefetch=prefetch) for prefetch in (True, False))
    start = ahead.state_dict()
    for _ in range(5):
        assert equal(ahead.step(), plain.step())
    ahead.load_state_dict(start)
    plain.load_state_dict(start)
    assert equal(ahead.step(), plain.step())
    assert ahead.state_dict() == plain.state_dict()


def test_the_cursor_counts_rows_tokens_epochs_and_sources(shards):
    loader = Loader(shards, **SETTINGS)
    rows = loader.reader.num_rows
    steps = rows // 24 + 1
    for _ in range(steps):
        loader.step()
    cursor = loader.cursor
    assert (cursor.row, cursor.tokens, cursor.epoch) == (steps * 24, steps * 24 * 16, 1)
    assert sum(cursor.sources.values()) == cursor.row
    assert all(count >= len(loader.reader.ranges[name]) for name, count in cursor.sources.items())


def test_a_step_far_away_is_instant(make_shards, documents):
    shards = make_shards({"a": documents(100), "b": documents(9)}, weights={"a": 3, "b": 1})
    loader = Loader(shards, **SETTINGS)
    loader.load_state_dict({**loader.state_dict(), "row": 10**12})
    rows = sorted(rows_of(loader.step()))
    expected = loader.reader.rows(loader._mixture.rows(10**12, 24))[0]
    assert rows == sorted(map(tuple, expected.tolist()))
    assert loader.cursor.row == 10**12 + 24


@pytest.mark.parametrize(
    "change",
    [{"seed": 4}, {"shards": {"window_documents": 20}}, {"shards": {"weights": {"a": 1, "b": 1}}}],
)
def test_a_cursor_of_other_data_is_refused(make_shards, documents, shards, change):
    state = Loader(shards, **SETTINGS).state_dict()
    changed = dict(change)
    options = changed.pop("shards", None)
    if options:
        shards = make_shards({"a": documents(150), "b": documents(60, seed=1)}, name="other", **options)
    loader = Loader(shards, **{**SETTINGS, **changed})
    with pytest.raises(UserError, match=r"reading data plan \w{12}, but this run's is \w{12} \((seed|files|weights)"):
        loader.load_state_dict(state)


def test_the_same_data_written_again_has_the_same_plan(make_shards, documents, shards):
    again = make_shards({"a": documents(150), "b": documents(60, seed=1)}, name="again")
    assert Loader(again, **SETTINGS).cursor.plan == Loader(shards, **SETTINGS).cursor.plan


@pytest.mark.parametrize(("batch", "micro", "world"), [(24, 5, 1), (24, 2, 5), (24, 16, 2)])
def test_a_step_that_does_not_divide_is_refused(shards, batch, micro, world):
    with pytest.raises(UserError, match=rf"gives 24 rows a step, .*\({micro} x {world} = {micro * world}\); set train"):
        Loader(shards, batch_rows=batch, micro_batch_rows=micro, seed=0, world_size=world)


def test_shards_without_train_rows_are_refused(make_shards, documents):
    with pytest.raises(UserError, match="holds no train rows"):
        Loader(make_shards({"a": []}, documents(3)), **SETTINGS)


def test_damage_found_while_prefetching_reaches_the_caller(make_shards, documents):
    shards = make_shards({"a": documents(150)})
    shards.manifest["counts"]["vocab_size"] = 10
    loader = Loader(shards, **SETTINGS)
    with pytest.raises(DamagedError, match="ends at 9"):
        loader.step()
