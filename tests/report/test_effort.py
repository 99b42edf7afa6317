"""Where the time of a training went, as the report tells it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from slm.core.artifact import Artifact
from slm.recipe import Recipe
from slm.report.effort import SHOWN_PROCESSES, effort
from slm.report.gather import Run, finished_artifacts, gather
from slm.report.page import Section

Make = Callable[..., dict[str, Artifact]]


@pytest.fixture
def run(recipe: Recipe, make_run: Make) -> Run:
    make_run(recipe)
    return gather(recipe, finished_artifacts(recipe))


def facts(section: Section) -> dict[str, tuple[str, str]]:
    return {fact.label: (fact.value, fact.note) for fact in section.facts}


def test_bars_are_the_phases_of_all_processes_and_add_up(run: Run) -> None:
    section = effort(run)
    assert section.lead == "4 min 24 s of work by 3 processes; 78.8 % of it went into computing steps that stayed."
    assert {bar.label: bar.value for bar in section.bars}["replayed"] == "9.0 s  (3.4 %)"
    assert "compile" not in {bar.label for bar in section.bars}  # took no time
    shares = [float(bar.value.split("(")[1].split(" ")[0]) for bar in section.bars]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert [bar.label for bar in section.bars if bar.share == 1.0 and bar.strong] == ["compute"]


def test_tokens_and_computation_are_told(run: Run) -> None:
    told = facts(effort(run))
    assert told["tokens trained on"] == ("14.7M", "4 a parameter")
    flops = float(told["computation"][0].split("·")[0]) * 10**14
    assert flops == pytest.approx(6 * 3.67e6 * 14.7e6, rel=0.35)  # 6 N D and attention, without the embedding


def test_speed_stands_beside_the_measured_rate_and_an_unknown_data_sheet(run: Run) -> None:
    told = facts(effort(run))
    assert told["share of the matmul rate"] == ("46.7 %", "measured: 600 GFLOP/s")
    assert told["MFU"][0] == "unknown"
    known = [{**row, "mfu": row["matmul_share"] / 2} for row in run.steps]
    assert facts(effort(replace(run, steps=known)))["MFU"] == ("23.3 %", "data sheet: 1,200 GFLOP/s")
    silent = [{"kind": "train", "step": 1, "tokens": 1, "loss": 1.0, "seconds": 1.0}]
    assert facts(effort(replace(run, steps=silent)))["share of the matmul rate"][0] == "unknown"


def test_what_did_not_go_straight_is_counted(run: Run) -> None:
    told = facts(effort(run))
    assert told["restarts"] == ("2", "1 min 00 s in which nobody worked")
    assert told["steps skipped"] == told["rewinds"] == told["evaluations that failed"] == ("0", "")
    troubles = [
        {"kind": "skip", "step": 7, "tokens": 9, "reason": "spike: loss 9 above 3"},
        {"kind": "skip", "step": 8, "tokens": 9, "reason": "spike: loss 8 above 3"},
        {"kind": "rewind", "step": 8, "tokens": 9, "to_step": 4},
        {"kind": "evaluate_failed", "step": 9, "tokens": 9, "reason": "out of memory"},
    ]
    told = facts(effort(replace(run, troubles=troubles)))
    assert told["steps skipped"] == ("2", "spike: loss 8 above 3")
    assert told["rewinds"] == ("1", "at step 8")
    assert told["evaluations that failed"] == ("1", "out of memory")


def test_saves_are_told_with_what_the_steps_waited_for_them(run: Run) -> None:
    assert "checkpoints saved" not in facts(effort(run))
    lines = [{**line, "behind": {"saves": 4, "save_seconds": 8.0, "stall_seconds": 0.3}} for line in run.ledger]
    told = facts(effort(replace(run, ledger=lines)))["checkpoints saved"]
    assert told == ("12", "took 24 s, held the steps up for 0.9 s")


def test_energy_and_cost_are_told_or_unknown(run: Run) -> None:
    told = facts(effort(run))
    assert told["energy"] == ("0.00733 kWh (cpu 0.00733)", "")  # 100 W for 264 s
    assert told["price"] == ("unknown", "train.price_per_hour is not set")
    train = run.recipe.train.model_copy(update={"price_per_hour": 36.0})
    lines = [{**line, "energy_joules": {"cpu": "no RAPL counter"}} for line in run.ledger]
    priced = replace(run, recipe=run.recipe.model_copy(update={"train": train}), ledger=lines)
    told = facts(effort(priced))
    assert told["energy"] == ("unknown", "no readable counter (cpu: no RAPL counter)")
    assert told["price"] == ("2.64", "at 36.00 an hour")


def test_many_processes_are_cut_to_the_last(run: Run) -> None:
    (table,) = effort(run).tables
    assert [row[1] for row in table.rows] == ["200", "410", "600"]
    many = [{**run.ledger[0], "step": step} for step in range(1, 31)]
    (table,) = effort(replace(run, ledger=many)).tables
    assert table.caption == f"The last {SHOWN_PROCESSES} of 30 processes"
    assert table.rows[-1][:2] == ("30", "30")
    assert effort(replace(run, ledger=run.ledger[:1])).tables == []


def test_without_a_ledger_nothing_is_made_up(run: Run) -> None:
    section = effort(replace(run, ledger=[]))
    assert [fact.label for fact in section.facts] == ["tokens trained on", "computation"]
    assert "unknown where the time went" in section.lead
