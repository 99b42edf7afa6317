"""What a search keeps: one study a run, draws that depend on seed and number alone, names as Optuna has them."""

from __future__ import annotations

import pytest

from slm.core.errors import UserError
from slm.evaluate.trials import Trial
from slm.sweep.config import Parameter
from slm.sweep.process import held
from slm.sweep.study import (
    definition,
    distribution,
    importances,
    is_spent,
    next_trial,
    open_study,
    pruner_of,
    sampler_of,
    search_folder,
    trials_of,
)

optuna = pytest.importorskip("optuna")


def test_parameters_become_optunas_distributions():
    kinds = optuna.distributions
    assert distribution(Parameter(key="a", low=0.1, high=1, log=True)) == kinds.FloatDistribution(0.1, 1, log=True)
    assert distribution(Parameter(key="a", low=0, high=1, step=0.25)) == kinds.FloatDistribution(0, 1, step=0.25)
    assert distribution(Parameter(key="a", kind="int", low=2, high=8, step=2)) == kinds.IntDistribution(2, 8, step=2)
    assert distribution(Parameter(key="a", kind="choice", choices=(False, 2, "x"))) == kinds.CategoricalDistribution(
        (False, 2, "x")
    )


def test_samplers_and_pruners_go_by_name(recipe_of):
    assert isinstance(sampler_of(recipe_of("a"), 0), optuna.samplers.TPESampler)
    assert isinstance(sampler_of(recipe_of("a", sampler="random"), 0), optuna.samplers.RandomSampler)
    found = {
        name: type(pruner_of(recipe_of("a", pruner=name).sweep)) for name in ("none", "median", "asha", "hyperband")
    }
    assert list(found.values()) == [
        optuna.pruners.NopPruner,
        optuna.pruners.MedianPruner,
        optuna.pruners.SuccessiveHalvingPruner,
        optuna.pruners.HyperbandPruner,
    ]


def test_a_trial_that_nobody_holds_is_taken_over_before_a_new_one_begins(recipe_of):
    recipe = recipe_of("taken", trials=2)
    study = open_study(recipe)
    with next_trial(study, recipe) as found, next_trial(study, recipe) as other, next_trial(study, recipe) as third:
        assert (found[0].number, other[0].number, third) == (0, 1, None)
        with held(search_folder(recipe) / "trial-0000") as lock:
            assert lock is None
    with next_trial(study, recipe) as found:
        assert found[0].number == 0
    assert [one.state for one in trials_of(study)] == ["running", "running"]


def test_draws_do_not_repeat_and_depend_on_seed_and_number_alone(recipe_of):
    def drawn(run: str, seed: int = 1) -> list[float]:
        recipe = recipe_of(run, {"seed": seed}, trials=4)
        for _ in range(4):
            study = open_study(recipe)  # as after a kill
            with next_trial(study, recipe) as found:
                study.tell(found[0], 1.0)
        return [one.settings["train.optimizer.lr"] for one in trials_of(study)]

    first = drawn("drawn")
    assert len(set(first)) == 4
    assert drawn("again") == first
    assert not set(drawn("other", 2)) & set(first)


def test_a_search_with_other_settings_is_refused_unless_it_begins_anew(recipe_of):
    recipe = recipe_of("defined", trials=1)
    study = open_study(recipe)
    with next_trial(study, recipe) as found:
        study.tell(found[0], 1.0)
        with pytest.raises(UserError, match=r"another process works on .*trial-0000"):
            open_study(recipe_of("defined", {"redo": True}))
    open_study(recipe_of("defined", trials=30, max_flops=1e9, finalists=0))
    with pytest.raises(UserError, match=r"begun with other settings \(train.clip_norm: 1.0 -> 0.5\).*add redo=true"):
        open_study(recipe_of("defined", {"train": {"clip_norm": 0.5}}))
    assert trials_of(open_study(recipe_of("defined", {"redo": True}))) == []
    assert not (search_folder(recipe) / "trial-0000").exists()


def test_what_does_not_change_trials_is_no_part_of_their_definition(recipe_of):
    plain = definition(recipe_of("x"))
    assert (
        definition(recipe_of("x", {"train": {"log_every_steps": 3}}, trials=99, changes=[{"train.clip_norm": 2}]))
        == plain
    )
    assert definition(recipe_of("x", pruner="asha")) != plain
    assert definition(recipe_of("x", {"seed": 5})) != plain


def test_minutes_are_counted_over_all_trials(recipe_of):
    recipe = recipe_of("minutes", max_minutes=2.0)
    one = Trial(0, "finished", {}, {4: 1.0}, 0.0, 70.0)
    assert not is_spent(recipe, [one])
    assert is_spent(recipe, [one, one])


def test_importance_is_of_the_setting_that_matters(recipe_of):
    space = [{"key": "train.optimizer.lr", "low": 1e-4, "high": 1, "log": True},
             {"key": "train.clip_norm", "low": 0.1, "high": 2}]  # fmt: skip
    recipe = recipe_of("important", space=space, trials=60, sampler="random")
    study = open_study(recipe)
    assert importances(study) == {}
    for _ in range(60):
        with next_trial(study, recipe) as found:
            trial = found[0]
            value = abs(trial.params["train.optimizer.lr"] - 0.01) + 1e-3 * trial.params["train.clip_norm"]
            trial.report(value, 4)
            study.tell(trial, value)
    shares = importances(study)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["train.optimizer.lr"] > 0.8
