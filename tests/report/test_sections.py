from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from slm.core.artifact import Artifact
from slm.recipe import Recipe
from slm.report import sections
from slm.report.gather import Run, finished_artifacts, gather

Make = Callable[..., dict[str, Artifact]]


@pytest.fixture
def run(recipe: Recipe, make_run: Make) -> Run:
    make_run(recipe, "evaluate", "export", "serve")
    return gather(recipe, finished_artifacts(recipe))


def test_the_result_names_the_baselines_that_are_beaten_and_no_others(run: Run) -> None:
    assert "fewer than xz\u00a0-9, gzip\u00a0-9 and unigram." in sections.result(run).lead
    results = {**run.results, "validation": {**run.results["validation"], "bits_per_byte": 2.0}}
    assert "fewer than gzip\u00a0-9 and unigram." in sections.result(replace(run, results=results)).lead
    results["validation"] = {**results["validation"], "bits_per_byte": 5.0}
    worst = sections.result(replace(run, results=results))
    assert worst.lead.endswith("more than every baseline.")
    assert [bar.label for bar in worst.bars][-1] == "this model"


def test_bars_are_as_long_as_their_numbers(run: Run) -> None:
    bars = sections.result(run).bars
    assert [bar.share for bar in bars] == sorted(bar.share for bar in bars)
    assert bars[-1].share == 1.0
    assert bars[0].share == pytest.approx(1.6874 / 4.127)
    assert [bar.strong for bar in bars] == [True, False, False, False]


def test_a_training_that_has_not_ended_is_told(run: Run) -> None:
    train = run.artifacts["train"]
    unfinished = Artifact(train.path, {**train.manifest, "counts": {**train.counts, "finished": False}})
    section = sections.training(replace(run, artifacts={**run.artifacts, "train": unfinished}))
    assert section.notices == ["The training has not ended: this is its state at step 600."]
    assert sections.training(run).notices == []


def test_parameters_by_part_add_up(run: Run) -> None:
    bars = sections.model(run).bars
    counts = [int(bar.value.split(" ")[0].replace(",", "")) for bar in bars]
    assert f"{sum(counts):,} in all" in sections.model(run).bars_caption
    assert counts == sorted(counts, reverse=True)


def test_samples_are_spread_over_the_training_and_end_with_the_last(run: Run) -> None:
    groups = sections.samples(run).samples
    assert [len(group) for group in groups] == [4, 4]
    assert [sample.label.split(" · ")[0] for sample in groups[0]] == ["step 50", "step 250", "step 400", "step 600"]


@pytest.mark.parametrize(
    ("count", "expected"), [(1, {5}), (2, {1, 5}), (3, {1, 3, 5}), (5, {1, 2, 3, 4, 5}), (9, {1, 2, 3, 4, 5})]
)
def test_steps_are_spread_evenly(count: int, expected: set[int]) -> None:
    assert sections._spread([1, 2, 3, 4, 5], count) == expected


def test_golden_prompts_show_what_was_found(run: Run) -> None:
    rows = sections.golden(run).tables[0].rows
    assert rows[0][:3] == ("import", "import ", "passed")
    assert rows[0][4] == "-2.412"
    assert rows[2][2:4] == ("FAILED", "a match of ':' in 8 greedy tokens")


def test_golden_prompts_that_the_corpus_did_not_hold_are_told_apart(run: Run) -> None:
    assert "no document" not in sections.golden(run).lead
    run.results["golden"]["clean"] = {"passed": 1, "failed": 1}
    assert sections.golden(run).lead.endswith("Of those that no document of the corpus held, 1 of 2 passed.")


def test_text_of_one_kind_is_not_told_apart(run: Run) -> None:
    assert [row[0] for row in sections.result(run).tables[0].rows] == ["stdlib", "code", "prose"]
    assert sections.result(run).tables[0].rows[2][3] == "1.919 [1.700, 2.200]"
    alone = {**run.results["domains"]["prose"], "documents": 1, "interval_95": None}
    of_one = {**run.results, "domains": {**run.results["domains"], "prose": alone}}
    assert sections.result(replace(run, results=of_one)).tables[0].rows[2][3] == "1.919"
    one = {**run.results, "domains": {"code": run.results["domains"]["code"]}}
    assert sections.result(replace(run, results=one)).tables == []


def test_sizes_by_layer_are_drawn_where_they_were_taken(run: Run) -> None:
    assert "train.statistics_every_steps" in sections.layers(run).missing
    assert sections.layers(run).empty
    quantities = ("output_rms", "output_max", "attention_rms", "ffn_rms", "weight_rms", "grad_rms", "update_share")
    rows = [{"tokens": 1000 * step, **{f"{name}.00": 1.0 for name in quantities}} for step in (1, 2)]
    assert len(sections.layers(replace(run, layers=rows)).figures) == 7


def test_the_noise_scale_is_drawn_where_it_was_measured(run: Run) -> None:
    rows = [{"tokens": 1000 * step, "noise_scale_tokens": 5000.0 * step} for step in (1, 2)]
    drawn = sections.training(replace(run, noise=rows)).figures
    assert [figure.caption for figure in drawn[4:]] == ["Gradient noise scale in tokens, smoothed"]
    assert len(sections.training(run).figures) == 4
