from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from slm.core.artifact import Artifact
from slm.recipe import Recipe
from slm.report.gather import Run, finished_artifacts, gather
from slm.report.page import Verdict
from slm.report.verdicts import verdicts

Make = Callable[..., dict[str, Artifact]]


@pytest.fixture
def run(recipe: Recipe, make_run: Make) -> Run:
    make_run(recipe, "evaluate", "export", "compress", "safety")
    return gather(recipe, finished_artifacts(recipe))


def told(run: Run) -> dict[str, Verdict]:
    return {one.question: one for one in verdicts(run)}


def test_every_question_that_can_be_answered_is_and_names_its_section(run: Run) -> None:
    assert [(one.question, one.held, one.key) for one in verdicts(run)] == [
        ("fewer bits per byte than every baseline", None, "result"), ("benchmarks above chance", None, "tasks"),
        ("benchmark items not in the corpus", False, "tasks"), ("golden prompts", False, "golden"),
        ("safety", False, "safety"), ("compression within its budget", True, "compression"),
        ("files say what the checkpoint says", True, "export"), ("lineage whole", True, "lineage"),
    ]  # fmt: skip
    assert told(run)["safety"].words == "1 of 2 bounds kept"
    assert told(run)["benchmarks above chance"].words == "1 of 2 with their whole interval"
    assert told(run)["benchmark items not in the corpus"].words == (
        "20 of 290 were met in the corpus, 90 were not looked for"
    )


def test_what_was_not_measured_is_not_judged(run: Run) -> None:
    bare = replace(run, results={}, safety={}, parity={}, artifacts={"train": run.artifacts["train"]})
    assert [(one.question, one.held) for one in verdicts(bare)] == [("lineage whole", None)]


@pytest.mark.parametrize(("interval", "held"), [([1.5, 1.7], True), ([1.7, 1.8], None), ([1.76, 1.9], False)])
def test_a_baseline_is_beaten_where_the_whole_interval_is_below_it(run: Run, interval: Any, held: bool | None) -> None:
    validation = {**run.results["validation"], "interval_95": interval}
    found = told(replace(run, results={**run.results, "validation": validation}))
    assert found["fewer bits per byte than every baseline"].held is held


def test_safety_without_a_bound_is_open(run: Run) -> None:
    free = [{**one, "bound": "", "passed": True} for one in run.safety["measures"]]
    found = told(replace(run, safety={**run.safety, "measures": free}))["safety"]
    assert found.held is None
    assert found.words == "3 figures, none bounded"


def test_broken_links_and_files_over_their_budget_are_told(run: Run) -> None:
    worse = {**run.parity["formats"]["gguf_f16"], "max_delta": 1.0}
    found = told(replace(run, broken_links=("gone",), parity={**run.parity, "formats": {"gguf_f16": worse}}))
    assert found["lineage whole"][1:3] == (False, "1 link does not hold")
    assert found["files say what the checkpoint says"][1:3] == (False, "0 of 1 proved")
