"""Benchmarks: every mean with its interval beside what chance gives, and how far it moves with the wording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slm.report.page import Section, Table, percent

CONTROLS = ("task", "metric", "control", "its mean [95 %]", "model − control [95 %]", "p, corrected", "detectable")


def tasks(results: Mapping[str, Any]) -> Section:
    """What an evaluation's results say of its tasks."""
    section = Section("tasks", "Tasks")
    metrics = results.get("tasks", {}).get("metrics", [])
    if not metrics:
        section.lead = "No tasks were run; evaluate.tasks names them."
        return section
    section.lead = (
        "Means over items with 95 % intervals over items, or over the texts they share. Where an interval holds what "
        "chance gives, nothing was shown."
    )
    section.tables = [
        Table(
            "",
            ("task", "metric", "items", "mean [95 %]", "standard error", "chance", "clean items [95 %]"),
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


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = one["interval_95"]
    return (
        one["task"], one["metric"], f"{one['items']:,}", _interval({"value": one["value"], "low": low, "high": high}),
        "–" if one["standard_error"] is None else f"{one['standard_error']:.4f}",
        "–" if one["chance"] is None else f"{one['chance']:.3f}",
        "–" if one["clean_value"] is None else f"{one['clean_items']:,}: {_clean(one)}",
    )  # fmt: skip


def _clean(one: Mapping[str, Any]) -> str:
    low, high = one["clean_interval_95"]
    return _interval({"value": one["clean_value"], "low": low, "high": high})


def _beside(one: Mapping[str, Any]) -> tuple[str, ...]:
    (low, high), (least, most) = one["interval_95"], one["difference_95"]
    return (
        one["task"], one["metric"], one["control"], _interval({"value": one["value"], "low": low, "high": high}),
        _interval({"value": one["difference"], "low": least, "high": most}), f"{one['corrected_p']:.2g}",
        f"{one['detectable']:.2g}" if one["detectable"] else "–",
    )  # fmt: skip


def _interval(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
