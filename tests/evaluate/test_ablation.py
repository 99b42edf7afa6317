from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.evaluate.ablation import ablate, changed, flat, trained_bytes
from slm.evaluate.measurements import BITS_PER_BYTE, read_measurements
from tests.evaluate.planted import document_rows, publish, publish_checkpoint, publish_corpus

NEUTRAL, WORSE, BOTH = {"clip_norm": 0.5}, {"optimizer": {"lr": 0.5}}, {"clip_norm": 0.5, "optimizer": {"lr": 0.5}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Artifact]]:
    """Settings by three seeds; a seed moves all of its runs alike, as a start and an order of data do."""
    folder = tmp_path_factory.mktemp("ablation")
    corpus, noise = publish_corpus(folder / "corpus"), np.random.default_rng(0)
    made: dict[str, list[Artifact]] = {}
    for name, train, shift in (
        ("base", {}, 0.0),
        ("neutral", NEUTRAL, 0.0),
        ("worse", WORSE, 0.1),
        ("both", BOTH, 0.1),
    ):
        for seed in (1, 2, 3):
            rows = document_rows(0.0, 1)
            moved = shift + 0.03 * seed + noise.normal(0, 0.003)
            rows = [{**row, "nats": row["nats"] + moved * row["bytes"] * np.log(2)} for row in rows]
            run = folder / f"{name}-{seed}"
            checkpoint = publish_checkpoint(run, 1_000_000, seed, train=train)
            made.setdefault(name, []).append(publish(run, corpus, rows, checkpoint=checkpoint))
    return made


def test_each_change_is_compared_with_the_base_seed_by_seed(runs: dict[str, list[Artifact]]) -> None:
    found = ablate([one for name in ("neutral", "base", "worse") for one in runs[name]])
    assert found.base.runs == ["base-1", "base-2", "base-3"]
    effects = {one.change.split(":")[0]: one for one in found.effects}
    assert effects.keys() == {"train.clip_norm", "train.optimizer.lr"}
    worse, neutral = effects["train.optimizer.lr"], effects["train.clip_norm"]
    assert worse.change == "train.optimizer.lr: 0.003 -> 0.5"
    assert worse.difference.paired
    assert worse.difference.value == pytest.approx(0.1, abs=0.01)
    assert worse.corrected_p < 0.05 < neutral.corrected_p
    values = {
        name: [one.numerators_N.sum() / one.denominators_N.sum() for one in map(_bits, runs[name])] for name in runs
    }
    assert worse.difference.p_value == pytest.approx(stats.ttest_rel(values["worse"], values["base"]).pvalue)
    assert worse.corrected_p == pytest.approx(2 * worse.difference.p_value)
    assert worse.changed.standard_error > 5 * worse.difference.standard_error  # what a seed moves cancels


def test_several_changes_at_once_are_kept_and_counted(runs: dict[str, list[Artifact]]) -> None:
    found = ablate([one for group in runs.values() for one in group])
    assert {one.num_changed for one in found.effects} == {1, 2}


def test_what_cannot_be_compared_is_refused(runs: dict[str, list[Artifact]]) -> None:
    with pytest.raises(UserError, match=r"^all 3 runs have the same settings but for their seed; an ablation needs"):
        ablate(runs["base"])
    with pytest.raises(UserError, match=r"^base-1 repeats seed 1 of base-1; give each run once"):
        ablate([*runs["base"], runs["base"][0]])
    with pytest.raises(UserError, match=r"^1 seed\(s\) of a setting were given; an interval over seeds needs two"):
        ablate([*runs["base"], runs["worse"][0]])


def test_who_teaches_is_one_thing_and_calibration_stands_beside_it(tmp_path: Path) -> None:
    corpus, teacher = publish_corpus(tmp_path / "corpus"), publish_checkpoint(tmp_path / "teacher", 1_000_000)
    distill = {"kind": "distill", "distill": {"teacher": "runs/teacher"}}
    made = []
    for name, tokens, objective, error in (("alone", 10**6, {}, 0.1), ("taught", 10**6, distill, 0.02),
                                           ("longer", 2 * 10**6, distill, 0.03)):  # fmt: skip
        for seed in (1, 2):
            run, beside = tmp_path / f"{name}-{seed}", {"teacher": teacher} if objective else {}
            checkpoint = publish_checkpoint(run, tokens, seed, objective=objective, beside=beside)
            results = json.dumps({"calibration": {"next token": {"stated": {"error": error + seed / 1000}}}})
            made.append(publish(run, corpus, document_rows(0.0, seed), results=results, checkpoint=checkpoint))
    found = ablate(made, first_is_base=True)
    assert [group.runs for group in found.groups] == [["alone-1", "alone-2"], ["taught-1", "taught-2"],
                                                      ["longer-1", "longer-2"]]  # fmt: skip
    errors = {one.change: one for one in found.effects if one.metric == "calibration error"}
    assert {change: one.num_changed for change, one in errors.items()} == {
        "objective.kind: next_token -> distill": 1,
        "objective.kind: next_token -> distill; train.tokens: 1000000 -> 2000000": 2,
    }
    taught = errors["objective.kind: next_token -> distill"]
    assert taught.difference.value == pytest.approx(-0.08)
    assert taught.lower_is_better


@pytest.mark.parametrize(
    ("files", "size"),
    [
        (
            {"model-00001-of-00002.safetensors": 5, "model-00002-of-00002.safetensors": 7, "optimizer.safetensors": 90},
            12,
        ),
        ({"model-00001-of-00001.safetensors": 5, "adapter.safetensors": 2, "model_config.json": 1}, 2),
    ],
    ids=["all weights", "adapter"],
)
def test_what_was_trained_has_the_size_of_its_files(files: dict[str, int], size: int, tmp_path: Path) -> None:
    listed = {name: {"size_bytes": count} for name, count in files.items()}
    assert trained_bytes(Artifact(tmp_path, {"files": listed})) == size


def test_settings_are_compared_by_dotted_key() -> None:
    base, other = flat({"a": {"b": 1, "c": [1]}, "d": {}}), flat({"a": {"b": 2, "c": [1]}, "d": {}})
    assert changed(base, other) == {"a.b": (1, 2)}
    assert base["d"] == {}


def _bits(evaluation: Artifact):
    return read_measurements(evaluation)[BITS_PER_BYTE]
