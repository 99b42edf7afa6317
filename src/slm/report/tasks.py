"""Benchmarks: every mean with its interval beside what chance gives, and how far it moves with the wording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slm.evaluate.measurements import LOWER_IS_BETTER
from slm.report.charts import Interval, forest_figure
from slm.report.page import Figure, Section, Table, percent

Metric = Mapping[str, Any]

CONTROLS = ("task", "metric", "control", "its mean [95 %]", "model − control [95 %]", "p, corrected", "detectable")


def tasks(results: Mapping[str, Any]) -> Section:
    """What an evaluation's results say of its tasks."""
    section = Section("tasks", "Benchmarks")
    metrics = results.get("tasks", {}).get("metrics", [])
    if not metrics:
        section.missing = "slm evaluate with tasks=[NAME, ...], or evaluate=local for the public ones from files"
        return section
    section.lead = (
        "Means over items with 95 % intervals over items, or over the texts they share. Where an interval holds what "
        "chance gives, nothing was shown."
    )
    section.figures = drawn(metrics)
    section.tables = [
        Table(
            "Benchmarks",
            ("task", "metric", "mean [95 %]", "chance", "items", "clean items [95 %]", "standard error"),
            [_row(one) for one in metrics],
        )
    ]
    beside = [_beside(one) for one in results["tasks"].get("controls", ())]
    if beside:
        section.tables.append(Table("Beside models that know nothing, on the same items", CONTROLS, beside))
        section.remarks.append(
            "Controls: random is the model's shape with fresh weights, unigram the frequencies of single tokens in the "
            "training rows. Differences are paired, p values two-sided and corrected for all of them (Holm); "
            "detectable is the smallest true difference that such a test finds four times in five."
        )
    rows = [
        (f"{task}: {name}", spread["kind"], _interval(accuracy))
        for task, found in results.get("robustness", {}).items()
        for spread in found["spreads"]
        for name, accuracy in spread["accuracies"].items()
    ]
    if rows:
        section.tables.append(Table("Asked in other ways", ("variant", "over", "accuracy [95 %]"), rows))
    for task, found in results.get("robustness", {}).items():
        for spread in found["spreads"]:
            moved = "more than" if spread["distance"] > spread["distance_by_chance"] else "no more than"
            section.remarks.append(
                f"{task}, over {len(spread['accuracies'])} {spread['kind']}s: best and worst lie "
                f"{percent(spread['distance'])} apart, {moved} equally good ones would by chance "
                f"({percent(spread['distance_by_chance'])}); {percent(spread['agreeing']['value'])} of the items are "
                "answered alike in all."
            )
    return section


def drawn(metrics: Sequence[Metric]) -> list[Figure]:
    """Shares of right answers on one axis, each with a mark where chance is."""
    rows = []
    for one in metrics:
        low, high = one["interval_95"]
        if one["metric"] not in LOWER_IS_BETTER and 0 <= low <= high <= 1:
            rows.append(Interval(f"{one['task']} · {one['metric']}", one["value"], low, high, one["chance"]))
    if not rows:
        return []
    title = "Share of items answered right, with 95 % intervals; the upright mark is what chance gives"
    return [forest_figure("tasks", title, rows, "share right", reference=None, limits=(0, 1))]


def above_chance(metrics: Sequence[Metric]) -> tuple[int, int]:
    """How many metrics lie above chance with their whole interval, and how many have a chance to be above."""
    guessed = [one for one in metrics if one["chance"] is not None]
    return sum(one["interval_95"][0] > one["chance"] for one in guessed), len(guessed)


def _row(one: Metric) -> tuple[str, ...]:
    low, high = one["interval_95"]
    return (
        one["task"], one["metric"], _interval({"value": one["value"], "low": low, "high": high}),
        "–" if one["chance"] is None else f"{one['chance']:.3f}", f"{one['items']:,}",
        "–" if one["clean_value"] is None else f"{one['clean_items']:,}: {_clean(one)}",
        "–" if one["standard_error"] is None else f"{one['standard_error']:.4f}",
    )  # fmt: skip


def _clean(one: Metric) -> str:
    low, high = one["clean_interval_95"]
    return _interval({"value": one["clean_value"], "low": low, "high": high})


def _beside(one: Metric) -> tuple[str, ...]:
    (low, high), (least, most) = one["interval_95"], one["difference_95"]
    return (
        one["task"], one["metric"], one["control"], _interval({"value": one["value"], "low": low, "high": high}),
        _interval({"value": one["difference"], "low": least, "high": most}), f"{one['corrected_p']:.2g}",
        f"{one['detectable']:.2g}" if one["detectable"] else "–",
    )  # fmt: skip


def _interval(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
