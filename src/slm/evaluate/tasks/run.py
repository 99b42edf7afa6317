"""All tasks of a recipe, one after the other, and their table.

In: a scorer, those of the controls, and the tasks' settings. Out: `items.parquet`, and per task and metric a line of
the results: the mean beside what chance gives, over all items and over those that the corpus is known not to hold, and
a line for each control. Files are read, and
lm-eval's names looked up, before any model is asked, so that a mistake in the last task does not cost the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.core.artifact import Artifact
from slm.core.console import say, table
from slm.corpus import Document
from slm.evaluate.config import Control, EvaluateConfig
from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.against_controls import against_controls, beside
from slm.evaluate.tasks.answer import run_answer
from slm.evaluate.tasks.choice import run_choice
from slm.evaluate.tasks.code import run_code
from slm.evaluate.tasks.config import ANSWER, CHOICE, CODE, Layout, TaskConfig
from slm.evaluate.tasks.held_out_text import run_text
from slm.evaluate.tasks.items import Numbered, few_shot, read
from slm.evaluate.tasks.items_table import Result, summaries, write_items
from slm.evaluate.tasks.judge import run_open_questions
from slm.evaluate.tasks.outcome import Outcome
from slm.evaluate.tasks.preference import PREFERENCE, held_out_pairs, run_preference

if TYPE_CHECKING:
    from slm.evaluate.harness import Harness

Runner = Callable[[Scorer, TaskConfig, Sequence[Numbered], str], Outcome]


def runners(config: EvaluateConfig, seed: int) -> dict[Layout, Runner]:
    """What runs the tasks of each layout."""
    return {
        **dict.fromkeys(CHOICE, run_choice),
        **dict.fromkeys(ANSWER, run_answer),
        **dict.fromkeys(CODE, functools.partial(run_code, sandbox=config.sandbox, seed=seed)),
        "mt_bench": functools.partial(run_open_questions, judge=config.judge),
        "text": run_text,
    }


@dataclass(frozen=True, slots=True)
class Planned:
    """Tasks whose files are read and whose names are known."""

    config: EvaluateConfig
    corpus: Artifact | None
    files: list[tuple[TaskConfig, list[Numbered], str]]
    harness: Harness | None
    pairs: list[Document]
    """Held-out pairs of answers; asked of every model whose corpus has some."""


def plan_tasks(config: EvaluateConfig, corpus: Artifact | None) -> Planned:
    """Read what `config.tasks` names; `UserError` where a file is malformed or nobody knows a name."""
    known = {one.name: one for one in config.task_files}
    files = [(known[name], read(known[name], corpus), few_shot(known[name])) for name in config.tasks if name in known]
    pairs = held_out_pairs(corpus, config.max_documents)
    others = [name for name in config.tasks if name not in known]
    if not others:
        return Planned(config, corpus, files, None, pairs)
    from slm.evaluate.harness import Harness

    return Planned(config, corpus, files, Harness(others, config.harness, list(known)), pairs)


def run_tasks(
    tasks: Planned,
    scorer: Scorer,
    controls: Iterable[tuple[Control, Scorer]],
    folder: Path,
    seed: int,
    more: Mapping[str, Outcome],
) -> dict[str, Any]:
    """Run the tasks and write their table, and that of `more`, into `folder`; what the results say of them."""
    outcomes = {**more, **_asked(tasks, scorer, seed)}
    results: list[Result] = [result for outcome in outcomes.values() for result in outcome.results]
    judged = {config.name for config, *_ in tasks.files if config.layout == "mt_bench"}
    unjudged = replace(tasks, files=[one for one in tasks.files if one[0].name not in judged])
    for which, control in controls:
        found = _asked(unjudged, control, seed)
        results = beside(results, which, (result for outcome in found.values() for result in outcome.results))
    for name in judged:
        if tasks.config.controls and outcomes[name].results:
            outcomes[name].notes["controls"] = "not asked, since verdicts on noise cost as much as others"
    write_items(results, folder, scorer.rare_token_rate)
    said = {
        "metrics": summaries(results, seed),
        "controls": against_controls(results, seed),
        "skipped": {name: outcome.skipped for name, outcome in outcomes.items() if outcome.skipped},
        "notes": {name: outcome.notes for name, outcome in outcomes.items() if outcome.notes},
    }
    _print(said)
    return said


def _asked(tasks: Planned, scorer: Scorer, seed: int) -> dict[str, Outcome]:
    """What each task came to with one model."""
    by_layout = runners(tasks.config, seed)
    outcomes = {
        task.name: by_layout[task.layout](scorer, task, items, examples) for task, items, examples in tasks.files
    }
    preference = {PREFERENCE: run_preference(scorer, tasks.pairs)} if tasks.pairs else {}
    return {**outcomes, **(tasks.harness.run(scorer) if tasks.harness else {}), **preference}


def _print(found: dict[str, Any]) -> None:
    if found["metrics"]:
        columns = ("task", "metric", "value [95 %]", "chance", "items", "clean items", "value on clean [95 %]")
        rows = [
            (
                one["task"],
                one["metric"],
                _value(one["value"], one["interval_95"]),
                "-" if one["chance"] is None else one["chance"],
                one["items"],
                one["clean_items"] if one["unchecked_items"] < one["items"] else "not checked",
                "-" if one["clean_value"] is None else _value(one["clean_value"], one["clean_interval_95"]),
            )
            for one in found["metrics"]
        ]
        table("Tasks", columns, rows)
    if found["controls"]:
        columns = ("task", "metric", "control", "value [95 %]", "model - control [95 %]", "p, corrected", "detectable")
        rows = [
            (
                one["task"],
                one["metric"],
                one["control"],
                _value(one["value"], one["interval_95"]),
                _value(one["difference"], one["difference_95"]),
                one["corrected_p"],
                one["detectable"] or "unknown",
            )
            for one in found["controls"]
        ]
        table("Beside models that know nothing, on the same items", columns, rows)
    for name, reasons in found["skipped"].items():
        for reason, items in reasons.items():
            say(f"evaluate: {name}: {items:,} items left out: {reason}")
    for name, notes in found["notes"].items():
        for subject, note in notes.items():
            say(f"evaluate: {name}: {subject}: {note}")


def _value(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
