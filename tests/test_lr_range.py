"""The sweep finds divergence, its suggestions lie before it, and the run is left alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from slm import lr_range
from slm.compose import load_recipe
from slm.core.errors import UserError
from slm.lr_range import Point, Suggestion, has_diverged, settings, smoothed, suggest
from slm.pipeline import run as pipeline

SMALL = ("recipe=smoke", "train.threads=1", "train.precision=fp32", "train.lr_range.steps=40")


def curve(*rates: float) -> list[Point]:
    """A loss that falls steepest at 0.01, is lowest near 0.1 and then rises fast."""
    return [Point(lr, 7 - 4 / (1 + (0.01 / lr) ** 1.5) + (lr / 0.4) ** 3) for lr in rates]


def rates(count: int) -> list[float]:
    return [10 ** (-4 + 4 * index / (count - 1)) for index in range(count)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    runs = tmp_path_factory.mktemp("runs")
    pipeline(load_recipe("recipe=smoke", f"runs_dir={runs}", "to=shards"))
    return (*SMALL, f"runs_dir={runs}")


@pytest.mark.parametrize("count", [30, 200])
def test_the_suggestions_are_those_of_a_curve_that_is_known(count: int) -> None:
    found = suggest(curve(*rates(count)), None)
    assert math.log10(found.steepest) == pytest.approx(-2, abs=0.25)
    assert math.log10(found.largest) == pytest.approx(-1, abs=0.25)


def test_smoothing_shifts_nothing_and_divergence_is_what_is_worse_than_the_fresh_model() -> None:
    straight = [Point(1.0, float(index)) for index in range(60)]
    assert smoothed(straight) == pytest.approx([float(index) for index in range(60)])
    assert not has_diverged([Point(1, 8.0), Point(2, 9.9)])
    assert has_diverged([Point(1, 8.0), Point(2, 10.1)])
    assert has_diverged([Point(1, 8.0), Point(2, math.nan)])


def test_a_loss_that_never_falls_is_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"train\.lr_range\.lowest \(1\) is too high to begin with.*lower it"):
        suggest([Point(1.0 + step, 7.0 + step) for step in range(30)], 30.0)


def test_a_sweep_of_the_smoke_recipe_ends_in_divergence_and_suggests_before_it(shards, capsys) -> None:
    recipe = load_recipe(*shards, "train.lr_range.lowest=1e-4", "train.lr_range.highest=1e3")
    lr_range.run(recipe)
    folder = Path(recipe.runs_dir) / "smoke" / "lr_range"
    assert sorted(path.name for path in folder.iterdir()) == ["lr_range.json", "lr_range.png", "points.csv"]
    found = json.loads((folder / "lr_range.json").read_text())
    assert 1e-4 < found["steepest"] < found["largest"] < found["diverged"] < 1e3
    assert found["settings"] == {"train.optimizer.lr": pytest.approx(found["steepest"])}
    assert len((folder / "points.csv").read_text().splitlines()) == found["steps"] + 1 < 41
    losses = {row.split(",")[0]: float(row.split(",")[2]) for row in (folder / "points.csv").read_text().split()[1:]}
    assert min(losses.values()) == losses[f"{found['largest']:.8g}"] < losses["0.0001"] - 1
    assert (folder / "lr_range.png").read_bytes().startswith(b"\x89PNG")
    assert not recipe.folder("train").exists()
    printed = capsys.readouterr().out
    assert f"diverged at {found['diverged']:.3g}" in printed
    assert "try train.optimizer.lr=" in printed


def test_muon_keeps_its_ratio_to_adamw() -> None:
    recipe = load_recipe("recipe=smoke", "train.optimizer.kind=muon", "train.optimizer.muon_lr=0.02")
    assert settings(recipe, 0.04) == pytest.approx({"train.optimizer.lr": 0.02, "train.optimizer.muon_lr": 0.04})


def test_the_picture_leaves_out_what_is_not_finite(tmp_path: Path) -> None:
    points = [*curve(*rates(30)), Point(2.0, math.inf)]
    lr_range.picture(
        tmp_path / "p.png", load_recipe("recipe=smoke"), points, smoothed(points), Suggestion(0.01, 0.1, 2)
    )
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_a_range_that_does_not_grow_is_refused() -> None:
    with pytest.raises(UserError, match=r"highest \(0\.001\) must be above lowest \(0\.01\)"):
        load_recipe("recipe=smoke", "train.lr_range.lowest=0.01", "train.lr_range.highest=0.001")
