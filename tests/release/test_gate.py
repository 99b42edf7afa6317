"""The rules of the gate, each held and broken by planted evidence."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slm.core.artifact import Spec, make
from slm.evaluate.config import EvaluateConfig
from slm.release.evidence import collect
from slm.release.gate import (
    baseline_is_met,
    contamination_is_known,
    dig,
    judge,
    licences_are_known,
    paired_difference,
    parity_holds,
    quality_is_kept,
    safety_is_kept,
    tasks_are_checked,
)
from tests.release.conftest import reseal


def test_all_rules_hold_for_the_tiny_run(recipe_of):
    checks = judge(collect(recipe_of()))
    assert [check.sentence for check in checks if not check.passed] == []
    assert {"lineage", "hashes", "golden prompts in hf", "parity of hf", "contamination: foxes", "repository"} <= {
        check.name for check in checks
    }


@pytest.mark.parametrize(
    ("budget", "passes"),
    [
        ({"at_most": 8}, True),
        ({"at_least": 8}, False),
        ({"at_least": 0.1, "at_most": 8}, True),
        ({"figure": "validation.documents", "at_least": 1}, True),
        ({"figure": "validation.nothing", "at_least": 0}, False),
        ({"figure": "validation", "at_least": 0}, False),
    ],
)
def test_a_figure_must_exist_and_keep_its_bounds(recipe_of, budget, passes):
    recipe = recipe_of(quality=[{"figure": "validation.bits_per_byte", **budget}])
    (check,) = quality_is_kept(collect(recipe))
    assert check.passed == passes


def test_a_baseline_on_the_same_documents_is_compared_in_pairs(recipe_of, tmp_path):
    recipe = recipe_of(quality=[], baseline=str(tmp_path / "better"))
    ours = recipe.artifact("evaluate")
    table = pq.read_table(ours.file("documents.parquet"))

    def other(name: str, nats: object, ids: object = None) -> None:
        changed = table.set_column(table.schema.get_field_index("nats"), "nats", pa.array(nats))
        if ids is not None:
            changed = changed.set_column(table.schema.get_field_index("id"), "id", pa.array(ids))
        with_it = lambda draft: pq.write_table(changed, draft.path / "documents.parquet")  # noqa: E731
        make(tmp_path / name, Spec("evaluate", EvaluateConfig(), inputs={"name": name}), with_it)

    nats_D, bytes_D = np.array(table["nats"]), np.array(table["bytes"])
    other("same", nats_D)
    other("better", nats_D - 0.1 * np.log(2) * bytes_D)  # by 0.1 bits per byte in every document
    signs_D = np.where(np.arange(len(nats_D)) % 2, 1.0, -1.0)
    level = float((signs_D * bytes_D).sum() / bytes_D.sum())  # so that neither is better over all
    other("noisy", nats_D + 0.5 * np.log(2) * bytes_D * (signs_D - level))
    other("strange", nats_D, [f"x{number}" for number in range(len(nats_D))])
    (better,) = baseline_is_met(collect(recipe))
    assert not better.passed
    assert better.found.startswith("+0.1000 bits per byte (95 % interval +0.1000 to +0.1000), at most +0.01")
    (allowed,) = baseline_is_met(collect(recipe_of(baseline=str(tmp_path / "better"), max_increase=0.11)))
    assert allowed.passed
    (same,) = baseline_is_met(collect(recipe_of(baseline=str(tmp_path / "same"), max_increase=0.0)))
    assert same.passed
    (noisy,) = baseline_is_met(collect(recipe_of(baseline=str(tmp_path / "noisy"))))
    assert not noisy.passed, "as good on the whole, but it cannot be told from worse"
    (strange,) = baseline_is_met(collect(recipe_of(baseline=str(tmp_path / "strange"))))
    assert "was measured on other documents" in strange.found
    (missing,) = baseline_is_met(collect(recipe_of(baseline=str(tmp_path / "nowhere"))))
    assert "there is no evaluate in" in missing.found
    itself = paired_difference(ours, ours, 1)
    assert itself is not None
    assert (itself.value, itself.low, itself.high) == (0, 0, 0)


def test_a_proof_over_its_budget_or_a_format_that_was_not_exported_fails(recipe_of):
    (absent,) = parity_holds(collect(recipe_of(formats=["gguf_q8_0"])))
    assert "the export holds hf, gguf_f32; leave gguf_q8_0 out of release.formats" in absent.sentence
    recipe = recipe_of()
    counts = json.loads((recipe.folder("export") / "manifest.json").read_text())["counts"]
    counts["parity"]["hf"]["max_delta"] = 0.5
    reseal(recipe.folder("export"), counts=counts)
    (over,) = parity_holds(collect(recipe))
    assert over.sentence.startswith("parity of hf: largest difference 0.5, budget 0.0001; ")


def test_bounds_that_the_figures_were_not_judged_by_fail(recipe_of, settings):
    assert all(check.passed for check in safety_is_kept(collect(recipe_of())))
    stricter = recipe_of({"safety": {**settings["safety"], "max_personal": 0.1, "max_exposure": 2}})
    found = {check.name: check.found for check in safety_is_kept(collect(stricter)) if not check.passed}
    assert found == {
        "safety: max_personal": "safety.max_personal is 0.1, but the figures were judged by 0.9",
        "safety: max_exposure": "safety.max_exposure is 2.0, but the figures were judged by None",
    }


def test_licences_may_be_expressions(recipe_of):
    recipe = recipe_of(licence="apache-2.0", allowed_licences=["MIT"])
    weights = list(licences_are_known(collect(recipe)))[-1]
    assert (weights.passed, weights.found) == (True, "Apache-2.0")


def test_documents_that_were_not_checked_are_noticed(recipe_of):
    recipe = recipe_of()
    counts = json.loads((recipe.folder("corpus") / "manifest.json").read_text())["counts"]
    counts["sources"]["code"]["documents"] += 1000
    reseal(recipe.folder("corpus"), counts=counts)
    first, *_ = contamination_is_known(collect(recipe))
    assert "documents were checked" in first.found
    assert not first.passed


def test_a_task_none_of_whose_items_is_known_to_be_clean_fails(recipe_of):
    evidence = collect(recipe_of())
    one = {"task": "arc", "metric": "acc", "value": 0.3, "items": 5, "clean_items": 4}
    evidence.results["tasks"] = {"metrics": [one, {**one, "task": "piqa", "clean_items": 0}]}
    found = {check.name: check.passed for check in tasks_are_checked(evidence)}
    assert found == {"contamination: arc (acc)": True, "contamination: piqa (acc)": False}


def test_dig_finds_what_is_there_alone():
    values = {"a": {"b": 1}}
    results = {**values, "tasks": {"metrics": [{"task": "arc", "metric": "acc", "value": 0.3}]}}
    assert dig(results, "tasks.arc.acc") == 0.3
    assert dig(results, "tasks.arc.f1") is None
    assert (dig(values, "a.b"), dig(values, "a.c"), dig(values, "a.b.c")) == (1, None, None)
