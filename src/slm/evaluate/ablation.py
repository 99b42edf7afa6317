"""What each change of a recipe is worth: runs grouped by their settings, one thing changed at a time, over seeds.

In: evaluate artifacts of runs on the same held-out documents. Out: the base (the settings that most others differ
from in one key) and for each other group the keys that it changed, its mean over seeds and the difference from the
base with Student's interval, seed by seed where the seeds are the same, p values corrected by Holm. Runs must
share shards, or they count as made from different things. A group that changed several things at once tells nobody
which of them helped: it is kept, and marked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.evaluate.measurements import BITS_PER_BYTE, matched, name_of, read_measurements
from slm.evaluate.scaling import checkpoint_of
from slm.evaluate.stage import RESULTS
from slm.evaluate.statistics.corrections import corrected
from slm.evaluate.statistics.replicates import OverSeeds, difference_over_seeds, over_seeds

Settings = dict[str, Any]
CALIBRATION_ERROR = "calibration error"
"""Of the likeliest next token, a figure of the whole run."""
WHO_TEACHES = ("objective.kind", "objective.distill.source", "made from.teacher", "made from.distill")
"""Settings that name one thing together: the text alone, a teacher, or its store."""


@dataclass(slots=True)
class Group:
    """Runs of equal settings; `seeds` gives for each metric the value of each seed."""

    settings: Settings
    seeds: dict[str, dict[int, float]] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    checkpoints: list[Artifact] = field(default_factory=list)
    trained_bytes: int = 0
    """What its checkpoints hold of what was trained: the adapter where there is one, or all weights."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One change against the base, on one metric."""

    metric: str
    lower_is_better: bool
    runs: tuple[str, ...]
    """Those with the change."""
    change: str
    """`train.optimizer.lr: 0.01 -> 0.02`; several are parted by semicolons."""
    num_changed: int
    base: OverSeeds
    changed: OverSeeds
    difference: OverSeeds
    corrected_p: float
    values: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Of each key that was changed, the base's value and the other."""
    trained_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Ablation:
    """The base and what was changed."""

    base: Group
    effects: list[Effect]
    groups: list[Group]
    """All of them, the base first."""


def ablate(evaluations: Sequence[Artifact], *, first_is_base: bool = False) -> Ablation:
    """Group, choose the base unless it is the first, compare; `UserError` where seeds or anything to compare lack."""
    groups, metrics = _grouped(evaluations)
    if len(groups) < 2:
        raise UserError(
            f"all {len(evaluations)} runs have the same settings but for their seed; an ablation needs runs in which "
            "one thing differs (-m train.optimizer.lr=0.01,0.02 seed=1,2,3)"
        )
    base = groups[0]
    if not first_is_base:
        base = max(groups, key=lambda one: sum(len(things(one, other)) == 1 for other in groups))
    others = [other for other in groups if other is not base]
    effects = [effect for other in others for effect in _effects(base, other, metrics)]
    p_values = corrected([effect.difference.p_value for effect in effects], "holm")
    effects = [replace(effect, corrected_p=p) for effect, p in zip(effects, p_values, strict=True)]
    effects = sorted(effects, key=lambda one: (one.metric, one.num_changed, one.difference.value))
    return Ablation(base, effects, [base, *others])


def changed(base: Settings, other: Settings) -> dict[str, tuple[Any, Any]]:
    """The dotted keys whose values differ, with both values."""
    return {
        key: (base.get(key), other.get(key))
        for key in dict.fromkeys([*base, *other])
        if base.get(key) != other.get(key)
    }


def things(base: Group, other: Group) -> dict[str, tuple[Any, Any]]:
    """What differs between two groups; who teaches is one thing, by the first of its settings that differs."""
    found = changed(base.settings, other.settings)
    teaching = [key for key in WHO_TEACHES if key in found]
    return {key: values for key, values in found.items() if key not in teaching[1:]}


def words(base: Group, other: Group) -> str:
    """How a group differs from the base, for people."""
    return "; ".join(f"{key}: {_short(old)} -> {_short(new)}" for key, (old, new) in things(base, other).items())


def flat(settings: Mapping[str, Any], prefix: str = "") -> Settings:
    """Nested settings by dotted key; lists are values."""
    found: Settings = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def trained_bytes(checkpoint: Artifact) -> int:
    """The size of the adapter's files where there are some, or of the model's."""
    files = [(name, facts["size_bytes"]) for name, facts in checkpoint.manifest["files"].items()]
    weights = [(name, size) for name, size in files if name.endswith(".safetensors")]
    sizes = {stem: sum(size for name, size in weights if name.startswith(stem)) for stem in ("adapter", "model")}
    return int(sizes["adapter"] or sizes["model"])


def _grouped(evaluations: Sequence[Artifact]) -> tuple[list[Group], dict[str, bool]]:
    """The groups, and for each metric whether less of it is better."""
    groups: dict[str, Group] = {}
    first = read_measurements(evaluations[0])
    for evaluation in evaluations:
        checkpoint = checkpoint_of(evaluation)
        ingredients = checkpoint.manifest["ingredients"]
        settings = flat({**ingredients["settings"], "made from": ingredients["parents"]})
        group = groups.setdefault(
            json.dumps(settings, sort_keys=True), Group(settings, trained_bytes=trained_bytes(checkpoint))
        )
        seed = int(checkpoint.manifest["seed"])
        found = _calibration_error(evaluation)
        for name, one in read_measurements(evaluation).items():
            if name in first:
                matched(first[name], one, (str(evaluations[0].path), str(evaluation.path)))
                found[name] = float(one.numerators_N.sum() / one.denominators_N.sum())
        for name, value in found.items():
            values = group.seeds.setdefault(name, {})
            if seed in values:
                raise UserError(f"{name_of(evaluation)} repeats seed {seed} of {group.runs[0]}; give each run once")
            values[seed] = value
        group.runs.append(name_of(evaluation))
        group.checkpoints.append(checkpoint)
    metrics = {BITS_PER_BYTE: True, **{name: one.lower_is_better for name, one in first.items()}}
    return list(groups.values()), {**metrics, CALIBRATION_ERROR: True}


def _calibration_error(evaluation: Artifact) -> dict[str, float]:
    results = json.loads(evaluation.file(RESULTS).read_text(encoding="utf-8"))
    judged = results.get("calibration", {}).get("next token")
    return {CALIBRATION_ERROR: judged["stated"]["error"]} if judged else {}


def _effects(base: Group, other: Group, metrics: Mapping[str, bool]) -> list[Effect]:
    count, change = len(things(base, other)), words(base, other)
    effects = []
    for name, lower in metrics.items():
        if name in base.seeds and name in other.seeds:
            mine, theirs = base.seeds[name], other.seeds[name]
            gap = difference_over_seeds(mine, theirs)
            sides = (over_seeds(mine), over_seeds(theirs))
            more = (changed(base.settings, other.settings), other.trained_bytes)
            effects.append(Effect(name, lower, tuple(other.runs), change, count, *sides, gap, gap.p_value, *more))
    return effects


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
