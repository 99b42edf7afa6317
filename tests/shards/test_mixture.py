"""The stream of rows: whole epochs, exact shares, any position at once."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.shards.config import MixtureStage
from slm.shards.mixture import BLOCK_ROWS, apportion, describe, mix, mix_stages, only, resolve, taken_at
from slm.shards.order import permute

RANGES = {"code": range(700), "prose": range(700, 1000), "tiny": range(1000, 1007)}
WEIGHTS = {"code": 0.5, "prose": 0.45, "tiny": 0.05}


def defined_row(position: int, seed: int) -> int:
    """What the mixture's description says stands at `position`, one position at a time."""
    quotas = apportion(WEIGHTS, BLOCK_ROWS)
    names = list(WEIGHTS)
    slots = sorted(((2 * i + 1) / (2 * quotas[n]), names.index(n), i) for n in names for i in range(quotas[n]))
    block, slot = divmod(position, BLOCK_ROWS)
    _, number, rank = slots[slot]
    name = names[number]
    rows = RANGES[name]
    epoch, inside = divmod(block * quotas[name] + rank, len(rows))
    return rows.start + permute(inside, len(rows), derive(seed, "order", name, epoch))


def test_without_weights_each_row_comes_exactly_once_an_epoch():
    mixture = mix(RANGES, {}, seed=5)
    first, second = mixture.rows(0, 1007), mixture.rows(1007, 1007)
    assert sorted(first.tolist()) == list(range(1007))
    assert sorted(second.tolist()) == list(range(1007))
    assert (first != second).mean() > 0.95


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5_000), st.integers(1, 3_000), st.sampled_from([{}, WEIGHTS]))
def test_a_stretch_equals_its_positions_taken_one_by_one(first, count, weights):
    mixture = mix(RANGES, weights, seed=1)
    found = mixture.rows(first, count)
    for offset in {0, count // 2, count - 1}:
        assert found[offset] == mixture.rows(first + offset, 1)[0]


@pytest.mark.parametrize("position", [0, 1, 1023, 1024, 50_001, 10**12, 10**15])
def test_a_far_position_is_instant_and_equals_the_definition(position):
    mixture = mix(RANGES, WEIGHTS, seed=9)
    began = time.process_time()
    row = int(mixture.rows(position, 1)[0])
    assert time.process_time() - began < 0.1
    assert row == defined_row(position, 9)


def test_each_block_holds_each_source_in_its_share_and_evenly_spread():
    mixture = mix(RANGES, WEIGHTS, seed=0)
    quotas = apportion(WEIGHTS, BLOCK_ROWS)
    for block in (0, 7, 10**9):
        assert mixture.count_sources(mixture.rows(block * BLOCK_ROWS, BLOCK_ROWS)) == quotas
    for part in range(8):
        counts = mixture.count_sources(mixture.rows(part * 128, 128))
        assert all(abs(counts[name] - quotas[name] / 8) <= 2 for name in quotas)


def test_each_source_runs_through_epochs_of_its_own():
    mixture = mix(RANGES, WEIGHTS, seed=3)
    rows = mixture.rows(0, 20 * BLOCK_ROWS)
    for source in RANGES.values():
        mine = rows[(rows >= source.start) & (rows < source.stop)]
        for epoch in range(len(mine) // len(source)):
            assert sorted(mine[epoch * len(source) : (epoch + 1) * len(source)]) == list(source)


def test_another_seed_is_another_order():
    assert (mix(RANGES, {}, 1).rows(0, 100) != mix(RANGES, {}, 2).rows(0, 100)).mean() > 0.9


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=10), st.integers(300, 2_000))
def test_seats_follow_the_largest_remainders(weights, seats):
    named = {str(number): weight for number, weight in enumerate(weights)}
    quotas = apportion(named, seats)
    assert sum(quotas.values()) == seats
    assert all(abs(quotas[name] - seats * weight / sum(weights)) < 1 for name, weight in named.items())


def test_a_share_too_small_for_a_block_is_refused():
    with pytest.raises(UserError, match=r"shards\.mixture: the weight of tiny \(1e-05\) is less than one row in 1,024"):
        mix(RANGES, {"code": 1, "prose": 1, "tiny": 1e-5}, 0)


def stage(name: str, tokens: int = 0, *, epochs: bool = False, **amounts: float) -> MixtureStage:
    sources = [{"source": source, "epochs" if epochs else "weight": amount} for source, amount in amounts.items()]
    return MixtureStage.model_validate({"name": name, "tokens": tokens, "sources": sources})


def test_a_weight_for_a_source_without_rows_is_refused():
    with pytest.raises(
        UserError, match=r"shards\.mixture\.main\.maths: the shards hold no row .*only code, prose, tiny"
    ):
        mix_stages(RANGES, [stage("main", code=1, maths=1)], 64, 0)


STAGES = [stage("main", 64 * 3_000, code=0.5, prose=0.5), stage("middle", epochs=True, tiny=3, prose=0.5),
          stage("anneal", tiny=0.1, code=0.9)]  # fmt: skip


def test_one_stage_is_the_mixture_of_its_weights_and_none_is_every_row_once():
    assert mix_stages(RANGES, [], 64, 7).rows(0, 2_000).tolist() == mix(RANGES, {}, 7).rows(0, 2_000).tolist()
    one = mix_stages(RANGES, [stage("main", **WEIGHTS)], 64, 7)
    assert one.rows(500, 3_000).tolist() == mix(RANGES, WEIGHTS, 7).rows(500, 3_000).tolist()


def test_stages_follow_each_other_and_go_on_in_each_source():
    staged = mix_stages(RANGES, STAGES, 64, 7)
    rows = staged.rows(0, 10_000)
    borders = [0, 3_000, 3_000 + 3 * 7 + 150, 10_000]
    found = [staged.count_sources(rows[first:last]) for first, last in pairwise(borders)]
    assert found[0] == {"code": 1_500, "prose": 1_500, "tiny": 0}
    assert abs(found[1]["tiny"] - 21) <= 1
    assert found[1]["tiny"] + found[1]["prose"] == 171
    assert found[2]["tiny"] == pytest.approx(0.1 * (10_000 - 3_171), rel=0.01)
    for source in RANGES.values():  # whatever the stages, a source is read through before it begins anew
        mine = rows[(rows >= source.start) & (rows < source.stop)]
        for epoch in range(len(mine) // len(source)):
            assert sorted(mine[epoch * len(source) : (epoch + 1) * len(source)]) == list(source)


@given(st.integers(0, 4_000), st.integers(1, 4_000))
def test_a_stretch_over_stages_equals_its_positions_taken_one_by_one(first, count):
    staged = mix_stages(RANGES, STAGES, 64, 1)
    found = staged.rows(first, count)
    assert len(found) == count
    for offset in {0, count // 3, count // 2, count - 1}:
        assert found[offset] == staged.rows(first + offset, 1)[0]


def test_what_came_before_a_place_is_counted_as_the_rows_there_are():
    mixture = mix(RANGES, WEIGHTS, 3, first=100, taken={"prose": 5})
    for position in (100, 101, 1_500, 9_999):
        counted = mixture.count_sources(mixture.rows(100, position - 100)) if position > 100 else {}
        expected = {name: counted.get(name, 0) + (5 if name == "prose" else 0) for name in WEIGHTS}
        assert taken_at(mixture, position) == expected


def test_epochs_become_shares_by_the_rows_of_a_source():
    assert resolve(STAGES[1], {"code": 700, "prose": 300, "tiny": 7}, 64) == ({"tiny": 21, "prose": 150}, 171)
    shown = describe(STAGES, {"code": 700, "prose": 300, "tiny": 7}, 64)
    assert [stage["first_token"] for stage in shown] == [0, 64 * 3_000, 64 * 3_171]
    assert shown[1]["sources"]["tiny"] == {"share": round(21 / 171, 6), "epochs": 3.0}
    assert shown[2]["sources"] == {"tiny": {"share": 0.1}, "code": {"share": 0.9}}


def test_counting_sources_covers_every_row():
    assert mix(RANGES, {}, 0).count_sources(np.arange(1007)) == {"code": 700, "prose": 300, "tiny": 7}


def a_stage(name: str, **weights: float) -> MixtureStage:
    return MixtureStage.model_validate(
        {"name": name, "sources": [{"source": n, "weight": w} for n, w in weights.items()]}
    )


def test_sources_that_are_not_asked_for_leave_their_shares_to_the_others():
    stages = (a_stage("main", a=1, b=2, c=3), a_stage("end", b=1, c=1))
    found = only(stages, ("b", "c"), "abc")
    assert [[(entry.source, entry.weight) for entry in one.sources] for one in found] == [
        [("b", 2), ("c", 3)], [("b", 1), ("c", 1)],
    ]  # fmt: skip
    assert only(stages, (), "abc") == stages


def test_without_a_mixture_the_rows_of_the_sources_asked_for_are_all_read():
    names = list(RANGES)[:2]
    mixture = mix_stages(RANGES, only((), names, RANGES), 16, 3)
    total = sum(len(RANGES[name]) for name in names)
    counts = mixture.count_sources(mixture.rows(0, 20 * total))
    assert sum(counts[name] for name in names) == 20 * total
    assert counts[names[0]] / (20 * total) == pytest.approx(len(RANGES[names[0]]) / total, abs=0.01)


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        (("a", "d"), r"train.sources \(d\) must name sources of the shards \(a, b, c\); correct it"),
        (("a",), r"train.sources \(a\) leaves stage end of shards.mixture nothing to read \(it has b, c\)"),
    ],
    ids=["unknown", "nothing left"],
)
def test_sources_that_cannot_be_read_alone_are_refused(sources, sentence):
    with pytest.raises(UserError, match=sentence):
        only((a_stage("main", a=1, b=1), a_stage("end", b=1, c=1)), sources, ["a", "b", "c"])
