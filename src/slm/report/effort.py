"""The section about what the training took: tokens, FLOPs, time by phase, energy, price, speed beside the machine's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slm.core.console import duration, quantity
from slm.core.energy import energy_text
from slm.model.counting import flops_per_token, num_parameters
from slm.report.gather import Run
from slm.report.page import Bar, Fact, Section, Table, compact, percent, power
from slm.train.ledger import MEANINGS, behind, energy_of, idle_seconds, totals

SHOWN_PROCESSES = 12
"""The last so many have a row of their own."""


def effort(run: Run) -> Section:
    """Where the wall-clock went, over all processes that worked on the run."""
    section = Section("cost", "Cost")
    if not run.ledger:
        section.lead = "There is no ledger.jsonl beside the metrics, so it is unknown where the time went."
        section.facts = computation(run)
        return section
    seconds = totals(run.ledger)
    whole = sum(seconds.values())
    count = len(run.ledger)
    useful = seconds["compute"] / whole
    section.lead = (
        f"{duration(whole)} of work by {count} process{'es' if count > 1 else ''}; "
        f"{percent(useful)} of it went into computing steps that stayed."
    )
    longest = max(seconds.values())
    section.bars = [
        Bar(name, f"{short(spent)}  ({percent(spent / whole)})", spent / longest, MEANINGS[name], name == "compute")
        for name, spent in seconds.items()
        if spent
    ]
    section.bars_caption = f"Wall-clock by phase, {duration(whole)} in all."
    section.facts = [*computation(run), *bill(run, whole), *speed(run.steps), *saves(run), *trouble(run)]
    if count > 1:
        section.tables = [processes(run.ledger)]
    return section


def computation(run: Run) -> list[Fact]:
    """Tokens and FLOPs of the training."""
    recipe, tokens = run.recipe, run.artifacts["train"].counts["tokens"]
    flops = flops_per_token(recipe.model, recipe.shards.seq_len, recipe.train.lora) * tokens
    per_parameter = f"{tokens / num_parameters(recipe.model):.2g} a parameter"
    return [Fact("tokens trained on", compact(tokens), per_parameter), Fact("computation", f"{power(flops)} FLOPs")]


def short(seconds: float) -> str:
    """A duration whose tenths are told where it has few seconds."""
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def speed(steps: Sequence[dict[str, Any]]) -> list[Fact]:
    """Model FLOPs a second, beside the measured matmul rate and the data sheet's; over all logged steps that say."""
    rows = [row for row in steps if row.get("model_flops_per_second") and row.get("matmul_share")]
    if not rows:
        return [Fact("share of the matmul rate", "unknown", "the metrics do not say")]
    seconds = sum(row["seconds"] for row in rows)
    flops = sum(row["model_flops_per_second"] * row["seconds"] for row in rows)
    able = sum(row["model_flops_per_second"] / row["matmul_share"] * row["seconds"] for row in rows)
    sheet = [row for row in rows if not isinstance(row.get("mfu", ""), str)]
    named = sum(row["model_flops_per_second"] / row["mfu"] * row["seconds"] for row in sheet)
    return [
        Fact("model FLOPs", f"{quantity(flops / seconds / 1e9)} GFLOP/s", "recomputation and padding not counted"),
        Fact("share of the matmul rate", percent(flops / able), f"measured: {quantity(able / seconds / 1e9)} GFLOP/s"),
        Fact("MFU", percent(flops / named), f"data sheet: {quantity(named / seconds / 1e9)} GFLOP/s")
        if len(sheet) == len(rows)
        else Fact("MFU", "unknown", "no data sheet's figure for this device"),
    ]


def saves(run: Run) -> list[Fact]:
    """How long saves took, and how long the steps waited for them."""
    figures = behind(run.ledger)
    if not figures.get("saves"):
        return []
    note = f"took {short(figures['save_seconds'])}, held the steps up for {short(figures['stall_seconds'])}"
    return [Fact("checkpoints saved", f"{figures['saves']:,.0f}", note)]


def trouble(run: Run) -> list[Fact]:
    """What did not go straight: restarts, skipped steps, rewinds, evaluations that failed."""
    between = idle_seconds(run.ledger)
    count = len(run.ledger) - 1
    facts = [Fact("restarts", f"{count}", f"{duration(between)} in which nobody worked" if count else "")]
    for kind, label in (
        ("skip", "steps skipped"),
        ("rewind", "rewinds"),
        ("evaluate_failed", "evaluations that failed"),
    ):
        rows = [row for row in run.troubles if row["kind"] == kind]
        note = str(rows[-1].get("reason") or f"at step {rows[-1]['step']:,}") if rows else ""
        facts.append(Fact(label, f"{len(rows)}", note))
    return facts


def bill(run: Run, seconds: float) -> list[Fact]:
    """Energy and cost, where they are known."""
    text = energy_text(energy_of(run.ledger)).removeprefix("energy ")
    value, note = (text, "") if text[0].isdigit() else ("unknown", text.removeprefix("unknown").lstrip(": "))
    price = run.recipe.train.price_per_hour
    cost = Fact("price", f"{seconds / 3600 * price:,.2f}", f"at {price:,.2f} an hour") if price else None
    return [Fact("energy", value, note), cost or Fact("price", "unknown", "train.price_per_hour is not set")]


def processes(lines: Sequence[dict[str, Any]]) -> Table:
    """One row for each of the last processes."""
    rows = [
        (
            f"{number}",
            f"{line['step']:,}",
            short(line["seconds"]),
            short(line["phases"].get("start", 0.0)),
            short(line["phases"].get("replayed", 0.0)),
        )
        for number, line in enumerate(lines, 1)
    ]
    caption = "Processes" if len(rows) <= SHOWN_PROCESSES else f"The last {SHOWN_PROCESSES} of {len(rows)} processes"
    return Table(caption, ("process", "reached step", "worked", "starting", "replaying"), rows[-SHOWN_PROCESSES:])
