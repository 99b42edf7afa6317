"""What a search knows, in one file that processes share: Optuna's study, its sampler and its pruner.

In: the recipe's section `sweep`. Out: the next trial to work on, and records of all. The file is Optuna's journal, made
for file systems that several machines mount; a line is appended for each thing told, so a kill loses nothing. A trial
is whoever's that holds the lock of its folder: one whose process is gone is taken over where it was. Draws depend on
the seed and the number of the trial, so a search that was killed goes on as if it had not been (with one process; with
several, what is drawn depends on what has ended by then).

Hydra's own Optuna sweeper is not used: its released versions (up to 1.3.0) need Optuna below 3, and it learns of a run
only at its end, so it cannot end one early.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.core.artifact import differences, make_folder
from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.evaluate.trials import State, Trial
from slm.recipe import Recipe
from slm.sweep.config import Parameter, SweepConfig
from slm.sweep.process import held

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import Trial as OptunaTrial

JOURNAL = "study.journal"
FLOPS, SECONDS, REASON = "flops", "seconds", "reason"
STATES: dict[str, State] = {"COMPLETE": "finished", "PRUNED": "ended early", "FAIL": "failed", "RUNNING": "running"}


def search_folder(recipe: Recipe) -> Path:
    """Where a search keeps its study and its trials."""
    return Path(recipe.runs_dir) / recipe.run / "sweep"


def trial_name(number: int) -> str:
    return f"trial-{number:04d}"


def open_study(recipe: Recipe) -> Study:
    """The study of a recipe's run; `UserError` where it was begun with other settings, unless `redo` begins anew."""
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise UserError("slm sweep needs Optuna, which is not installed; pip install 'slm[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder, wanted = search_folder(recipe), definition(recipe)
    make_folder(folder)
    with held(folder, wait=True):
        if recipe.redo:
            _forget(folder)
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            study_name="sweep",
            pruner=pruner_of(recipe.sweep),
            load_if_exists=True,
        )
        if "definition" not in study.user_attrs:
            study.set_user_attr("definition", wanted)
    if changed := differences(study.user_attrs["definition"], wanted):
        raise UserError(
            f"{folder} was begun with other settings ({'; '.join(changed)}), so its trials say nothing about these; "
            "choose another run=NAME to keep both, or add redo=true to search anew"
        )
    return study


def definition(recipe: Recipe) -> dict[str, Any]:
    """All that makes trials comparable, as it comes back from JSON."""
    parts = {name: getattr(recipe, name).identity() for name in ("sweep", "model", "objective", "train")}
    shards = recipe.artifact("shards").fingerprint
    parts["sweep"].pop("changes")
    found: dict[str, Any] = json.loads(json.dumps({**parts, "seed": recipe.seed, "shards": shards}))
    return found


@contextlib.contextmanager
def next_trial(study: Study, recipe: Recipe) -> Iterator[tuple[OptunaTrial, int] | None]:
    """A trial that nobody works on, or a new one, with its lock; None once there is none left to begin."""
    import optuna

    folder = search_folder(recipe)
    with contextlib.ExitStack() as stack:
        with held(folder, wait=True):
            for one in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
                lock = stack.enter_context(held(folder / trial_name(one.number)))
                if lock is not None:
                    found = optuna.trial.Trial(study, one._trial_id)
                    break
            else:
                trials = study.get_trials(deepcopy=False)
                if is_spent(recipe, trials_of(study)):
                    yield None
                    return
                study.sampler = sampler_of(recipe, len(trials))
                found = study.ask({one.key: distribution(one) for one in recipe.sweep.space})
                lock = stack.enter_context(held(folder / trial_name(found.number)))
        assert lock is not None
        yield found, lock


def is_spent(recipe: Recipe, trials: list[Trial]) -> bool:
    """Whether no further trial may begin, taking it to cost what the recipe as it is does."""
    from slm.train.plan import plan

    config = recipe.sweep
    minutes, flops = sum(one.seconds for one in trials) / 60, sum(one.flops for one in trials)
    return (
        len(trials) >= config.trials
        or bool(config.max_minutes and minutes >= config.max_minutes)
        or bool(config.max_flops and flops + plan(recipe).flops > config.max_flops)
    )


def trials_of(study: Study) -> list[Trial]:
    """All trials so far, by number."""
    return [
        Trial(
            one.number,
            STATES[one.state.name],
            dict(one.params),
            dict(sorted(one.intermediate_values.items())),
            one.user_attrs.get(FLOPS, 0.0),
            one.user_attrs.get(SECONDS, 0.0),
            one.user_attrs.get(REASON, ""),
        )
        for one in study.get_trials(deepcopy=False)
    ]


def importances(study: Study) -> dict[str, float]:
    """Shares of each setting in what parts the best tenth of finished trials from all (PED-ANOVA); {} where too few."""
    import optuna

    finished = [one for one in trials_of(study) if one.value is not None]
    if len(finished) < 2 * len(study.user_attrs["definition"]["sweep"]["space"]) or len(finished) < 4:
        return {}
    try:
        return dict(optuna.importance.get_param_importances(study))
    except (RuntimeError, ValueError):  # values that are all equal tell nothing apart
        return {}


def distribution(one: Parameter) -> BaseDistribution:
    """A parameter as Optuna draws it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.kind == "choice":
        return CategoricalDistribution(one.choices)
    assert one.low is not None
    assert one.high is not None
    if one.kind == "int":
        return IntDistribution(int(one.low), int(one.high), log=one.log, step=int(one.step or 1))
    return FloatDistribution(one.low, one.high, log=one.log, step=one.step)


def sampler_of(recipe: Recipe, number: int) -> BaseSampler:
    """What draws trial `number`."""
    import optuna

    seed = derive(recipe.seed, "sweep", number) % 2**32
    if recipe.sweep.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(n_startup_trials=recipe.sweep.first_trials, constant_liar=True, seed=seed)


def pruner_of(config: SweepConfig) -> BasePruner:
    """What ends trials early; a measurement counts one."""
    from optuna import pruners

    if config.pruner == "none":
        return pruners.NopPruner()
    if config.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=config.first_trials)
    if config.pruner == "asha":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return pruners.HyperbandPruner(min_resource=1, max_resource=config.measurements, reduction_factor=2)


def _forget(folder: Path) -> None:
    """Remove a study and its trials; `UserError` where one is being worked on."""
    trials = sorted(folder.glob("trial-*"))
    for trial in trials:
        with held(trial) as lock:
            if lock is None:
                raise UserError(f"another process works on {trial}; let it end, or stop it, before redo=true")
            shutil.rmtree(trial)
    for file in folder.glob(f"{JOURNAL}*"):
        file.unlink()
