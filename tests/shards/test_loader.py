"""What a step trains on depends on seed, plan and position alone; collation equals a plain reference."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import wait
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slm.core.artifact import Artifact
from slm.core.batch import IGNORED, Batch
from slm.core.errors import DamagedError, UserError
from slm.shards.loader import Loader, collate
from tests.shards.conftest import weighted

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


def digest(parts: list[list[Batch]]) -> str:
    """One hash of all that a step trains on, its rows put together over ranks in the order of the stream."""
    names = ("tokens_BT", "documents_BT", "positions_BT", "targets_BT")
    found = hashlib.sha256()
    for name in names:
        ranks = [torch.cat([getattr(batch, name) for batch in part]) for part in parts]
        rows_NT = torch.stack(ranks, dim=1).flatten(0, 1)  # row r of rank k is row r * world + k of the step
        found.update(rows_NT.to(torch.int64).numpy().tobytes())
    found.update(str(sum(batch.num_targets for part in parts for batch in part)).encode())
    return found.hexdigest()


def test_the_stream_is_the_one_that_it_always_was(make_shards, documents):
    """What a step holds must not change, or runs could not be continued by a later version."""
    shards = make_shards({"a": documents(90), "b": documents(40, seed=1)}, weights={"a": 0.3, "b": 0.7})
    loader = Loader(shards, **SETTINGS)
    found = hashlib.sha256("".join(digest([loader.step()]) for _ in range(20)).encode()).hexdigest()
    assert found[:16] == "dac0088d5731402f"


LAYOUTS = [
    *((1, micro, 1) for micro in (1, 4, 24)),
    *((2, micro, 0) for micro in (1, 3, 12)),
    *((3, micro, 2) for micro in (1, 4, 8)),
    *((4, micro, 1) for micro in (1, 2, 6)),
]
"""(processes, rows of a micro-batch, steps built ahead)."""


@pytest.mark.parametrize("weights", [{}, {"a": 0.3, "b": 0.7}], ids=["whole", "weighted"])
def test_the_stream_has_one_hash_over_worlds_micro_batches_prefetch_and_stop_points(make_shards, documents, weights):
    shards = make_shards({"a": documents(90), "b": documents(40, seed=1)}, weights=weights)

    def open_ranks(world: int, micro: int, prefetch: int) -> list[Loader]:
        sizes = {"batch_rows": 24, "micro_batch_rows": micro, "prefetch_steps": prefetch, "world_size": world}
        return [Loader(shards, seed=3, rank=rank, **sizes) for rank in range(world)]

    (whole,) = open_ranks(1, 24, 0)
    expected = [digest([whole.step()]) for _ in range(14)]
    assert len(set(expected)) == 14
    assert whole.cursor.epoch >= 1
    border = whole.reader.num_rows // 24  # the step in which the first epoch ends
    for number, layout in enumerate(LAYOUTS):
        ranks = open_ranks(*layout)
        found = []
        for step in range(14):
            if step in (1, border, border + 1):  # stop; go on in another layout from what a checkpoint holds
                states = {json.dumps(loader.state_dict()) for loader in ranks}
                assert len(states) == 1
                ranks = open_ranks(*LAYOUTS[(number + step) % len(LAYOUTS)])
                for loader in ranks:
                    loader.load_state_dict(json.loads(next(iter(states))))
            found.append(digest([loader.step() for loader in ranks]))
        assert found == expected
        assert all(loader.state_dict() == whole.state_dict() for loader in ranks)


def test_stages_of_a_mixture_begin_at_their_token_and_a_resumed_loader_goes_on_in_them(make_shards, documents):
    stages = [
        {"name": "main", "tokens": 50 * 16, "sources": weighted({"a": 1, "b": 1})},
        {"name": "anneal", "sources": weighted({"b": 1})},
    ]
    shards = make_shards({"a": documents(150), "b": documents(60, seed=1)}, mixture=stages, seq_len=16)
    loader = Loader(shards, batch_rows=12, micro_batch_rows=4, seed=3)
    states, steps = [], []
    for _ in range(10):
        states.append(json.loads(json.dumps(loader.state_dict())))
        steps.append(rows_of(loader.step()))
    assert loader.cursor.sources == {"a": 25, "b": 95}
    for number in (3, 4, 5, 9):  # the border lies in step 4
        resumed = Loader(shards, batch_rows=12, micro_batch_rows=2, seed=3)
        resumed.load_state_dict(states[number])
        assert [rows_of(resumed.step()) for _ in steps[number:]] == steps[number:]


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
    loaders = [Loader(shards, **SETTINGS, prefetch_steps=steps) for steps in (0, 1, 3)]
    start = loaders[0].state_dict()
    second = {**start, "row": 2 * 24}  # a place that the third has built ahead, but not next
    for state, steps in ((start, 5), (start, 1), (second, 3)):
        for loader in loaders:
            loader.load_state_dict(state)
        for _ in range(steps):
            plain, *ahead = [loader.step() for loader in loaders]
            assert all(equal(plain, other) for other in ahead)
    assert loaders[0].state_dict() == loaders[1].state_dict() == loaders[2].state_dict()


def test_what_was_built_ahead_is_what_is_read(shards, monkeypatch):
    loader, built_here = Loader(shards, **SETTINGS, prefetch_steps=2), []
    honest = loader._build

    def watching(mixture: Any, row: int, count: int) -> Any:
        if threading.current_thread() is threading.main_thread():
            built_here.append(row)
        return honest(mixture, row, count)

    monkeypatch.setattr(loader, "_build", watching)
    for rows in (24, 24, 24, 48, 48, 24):
        wait([future for _, future in loader._ahead])
        loader.step(rows)
    assert built_here == [0, 72, 168]  # the first, and where steps change their size
    loader.reweigh({"a": 1, "b": 1})
    loader.step(24)
    assert built_here == [0, 72, 168, 192]


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


@pytest.fixture
def reweighed(shards) -> Callable[..., Loader]:
    """Loaders at row 0 whose stream has been given shares."""

    def build(**changes: Any) -> Loader:
        loader = Loader(shards, **{**SETTINGS, **changes})
        loader.reweigh({"a": 0.5, "b": 0.5})
        return loader

    return build


def plan_of_shares(number: int) -> dict[str, float]:
    return [{"a": 0.9, "b": 0.1}, {"a": 0.2, "b": 0.8}, {"a": 1.0, "b": 1.0}][number % 3]


def test_new_shares_hold_from_the_next_step_on_and_no_row_comes_twice_in_an_epoch(reweighed):
    loader = reweighed()
    ranges = loader.reader.ranges
    taken: dict[str, list[int]] = {"a": [], "b": []}
    for number in range(30):
        if number % 5 == 0:
            loader.reweigh(plan_of_shares(number // 5))
        before = dict(loader.cursor.sources)
        rows = loader.rows_at(loader.cursor.row, 24)
        loader.step()
        counts = {name: count - before[name] for name, count in loader.cursor.sources.items()}
        expected = plan_of_shares(number // 5)
        assert abs(counts["a"] - 24 * expected["a"] / sum(expected.values())) <= 2
        for name, numbers in ranges.items():
            taken[name] += [row for row in rows if row in numbers]
    for name, numbers in ranges.items():
        assert len(taken[name]) > len(numbers)  # into the second epoch
        for first in range(0, len(taken[name]), len(numbers)):
            epoch = taken[name][first : first + len(numbers)]
            assert len(set(epoch)) == len(epoch)
        assert sorted(taken[name][: len(numbers)]) == list(numbers)


def test_a_stream_of_segments_divides_over_ranks_and_resumes_anywhere(reweighed):
    whole, expected, states = reweighed(prefetch_steps=0), [], []
    for number in range(14):
        if number % 4 == 3:
            whole.reweigh(plan_of_shares(number))
        states.append(json.dumps(whole.state_dict()))
        expected.append(digest([whole.step()]))
    for stop, world, micro, prefetch in ((0, 1, 24, 3), (3, 2, 4, 1), (4, 3, 2, 0), (9, 4, 6, 2)):
        sizes = {"micro_batch_rows": micro, "prefetch_steps": prefetch, "world_size": world}
        ranks = [reweighed(rank=rank, **sizes) for rank in range(world)]
        for loader in ranks:
            loader.step()  # what it builds ahead belongs to another segment
            loader.load_state_dict(json.loads(states[stop]))
        for number in range(stop, 14):
            if number % 4 == 3:
                for loader in ranks:
                    loader.reweigh(plan_of_shares(number))
            assert digest([loader.step() for loader in ranks]) == expected[number]
        assert all(loader.state_dict() == whole.state_dict() for loader in ranks)


def test_the_rows_of_earlier_segments_are_still_known(reweighed):
    loader, read = reweighed(), []
    for number in range(9):
        if number % 2:
            loader.reweigh(plan_of_shares(number))
        rows = loader.rows_at(loader.cursor.row, 24)
        tokens = sorted(map(tuple, loader.reader.rows(rows)[0].tolist()))
        assert sorted(rows_of(loader.step())) == [tuple(row) for row in tokens]
        read += rows
    assert loader.rows_at(0, 9 * 24) == read
    assert loader.rows_at(20, 60) == read[20:80]


def test_changing_shares_twice_at_one_place_leaves_one_segment(reweighed):
    loader = reweighed()
    loader.reweigh({"a": 3, "b": 1})
    assert loader.shares == {"a": 0.75, "b": 0.25}
    (segment,) = loader.state_dict()["segments"]
    assert segment == {"first": 0, "seats": {"a": 768, "b": 256}, "taken": {"a": 0, "b": 0}}


def test_the_same_shares_again_begin_no_segment_and_throw_nothing_away(reweighed):
    often, once = reweighed(prefetch_steps=2), reweighed(prefetch_steps=2)
    for number in range(40):
        shares, ahead = plan_of_shares(number // 10), list(often._ahead)
        often.reweigh({name: 3 * share + 1e-9 for name, share in shares.items()})  # the same seats
        if number % 10 == 0:
            once.reweigh(shares)
        else:
            assert list(often._ahead) == ahead
        assert equal(often.step(), once.step())
    assert often.state_dict() == once.state_dict()
    assert [segment["first"] for segment in often.state_dict()["segments"]] == [0, 240, 480, 720]


def test_rows_tell_their_source(shards):
    loader = Loader(shards, **SETTINGS)
    border = loader.reader.ranges["b"].start
    rows = loader.rows_at(0, 24)
    found = torch.cat([batch.sources_B for batch in loader.step()])
    assert found.tolist() == [int(row >= border) for row in rows]


class VirtualReader:
    """Ten trillion tokens that lie nowhere: each is computed from the number of its row."""

    seq_len, vocab_size, pad_id = 2_048, 50_000, 3
    ranges: ClassVar = {"a": range(3 * 10**9), "b": range(3 * 10**9, 5 * 10**9)}
    num_rows = 5 * 10**9

    stored, preferences = None, ""

    def __init__(self, *_: object) -> None:
        self.asked = 0

    def learned(self, _: np.ndarray) -> None:
        """All tokens are."""

    def rows(self, indices: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        self.asked += len(indices)
        tokens_NT = (indices[:, None] * 31 + np.arange(self.seq_len)) % self.vocab_size
        return tokens_NT.astype(np.uint16), [np.array([2_000, 48], dtype=np.int32)] * len(indices)


@pytest.mark.parametrize("weights", [{}, {"a": 0.3, "b": 0.7}], ids=["whole", "weighted"])
@pytest.mark.parametrize("tokens", [10**12, 10**16], ids=["first epoch", "epoch 976"])
def test_resuming_at_token_10_to_the_12_of_a_virtual_corpus_takes_under_a_second(
    make_shards, documents, monkeypatch, weights, tokens
):
    shards = make_shards({"a": documents(9), "b": documents(9)}, weights=weights)
    monkeypatch.setattr("slm.shards.loader.ShardReader", VirtualReader)
    row = tokens // VirtualReader.seq_len
    began = time.process_time()
    loader = Loader(shards, batch_rows=256, micro_batch_rows=8, seed=5, prefetch_steps=0)
    state = {**loader.state_dict(), "row": row, "tokens": tokens, "epoch": row // VirtualReader.num_rows}
    loader.load_state_dict(state)
    batches = loader.step()
    assert time.process_time() - began < 1
    assert loader.reader.asked == 256  # nothing before that place was looked at
    for number in (0, 100, 255):
        (one,) = loader.rows_at(row + number, 1)
        expected = (one * 31 + np.arange(VirtualReader.seq_len)) % VirtualReader.vocab_size
        assert batches[number // 8].tokens_BT[number % 8].tolist() == expected.tolist()
    assert loader.cursor.tokens == tokens + 256 * VirtualReader.seq_len
    assert (loader.cursor.row, loader.cursor.epoch) == (row + 256, (row + 256) // VirtualReader.num_rows)


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
    with pytest.raises(UserError, match=r"reading data plan \w{12}, but this run's is \w{12} \((seed|files|mixture)"):
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


def test_sources_may_be_left_out_over_the_same_shards_and_a_cursor_belongs_to_its_sources(shards):
    loader = Loader(shards, sources=("b",), **SETTINGS)
    steps = [rows_of(loader.step()) for _ in range(3)]
    assert loader.cursor.sources == {"a": 0, "b": 72}
    resumed = Loader(shards, sources=("b",), **SETTINGS)
    resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert rows_of(resumed.step()) == rows_of(loader.step())
    assert rows_of(Loader(shards, **SETTINGS).step()) != steps[0]
    with pytest.raises(UserError, match="sources"):
        Loader(shards, **SETTINGS).load_state_dict(loader.state_dict())
