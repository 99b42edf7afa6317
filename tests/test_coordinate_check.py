"""The coordinate check as a command: its table, its picture, and what it takes from the recipe."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from slm import coordinate_check
from slm.compose import load_recipe
from slm.coordinate_check import LOGITS, STREAM, Coordinate, coordinates, growth, optimizer_of, panels, shape_of


def test_the_check_writes_a_picture_and_every_number_and_tells_mup_from_standard(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(coordinate_check, "WIDTHS", (64, 128, 256))
    monkeypatch.setattr(coordinate_check, "DEPTHS", (2, 8))
    coordinate_check.run(load_recipe("recipe=smoke", f"runs_dir={tmp_path}"))
    folder = Path(tmp_path) / "smoke" / "coordinate_check"
    assert (folder / "coordinate_check.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((folder / "coordinates.csv").read_text().splitlines()))
    assert len(rows) == 3 * (3 * 4 + 4 + 10)
    moved = {
        (row["over"], row["parametrization"], int(row["width_or_layers"])): float(row["mean_movement"])
        for row in rows
        if row["activation"] == STREAM
    }
    assert moved["width", "mup", 256] < 1.2 * moved["width", "mup", 64]
    assert moved["width", "standard", 256] > 1.5 * moved["width", "standard", 64]
    assert moved["layers", "completep", 8] < 1.1 * moved["layers", "completep", 2]
    assert moved["layers", "mup", 8] > 1.3 * moved["layers", "mup", 2]
    printed = capsys.readouterr().out
    assert f"{moved['width', 'mup', 256] / moved['width', 'mup', 64]:.2f}" in printed


def test_small_models_are_of_the_recipes_make() -> None:
    model = load_recipe("recipe=smoke", "model.qk_norm=true").model
    shape = shape_of(model, 128, 4)
    assert (shape.qk_norm, shape.ffn_width, shape.layers) == (True, 384, 4)
    assert (shape.heads, shape.kv_heads) == (8, 4)
    assert {"block 1", "block 4", STREAM, LOGITS} <= set(coordinates(shape, optimizer_of(load_recipe(), "mup")))


def test_the_recipes_rates_are_those_of_the_base() -> None:
    recipe = load_recipe("recipe=smoke", "train.optimizer.lr=0.02")
    found = optimizer_of(recipe, "completep")
    assert (found.lr, found.parametrization, found.base_width, found.base_layers) == (0.02, "completep", 64, 2)
    assert optimizer_of(recipe, "standard").base_width == 0


def test_panels_of_one_row_share_their_scale_and_hold_a_line_a_part() -> None:
    parts = {name: Coordinate(2.0, 1.0) for name in ("block 1", "block 2", STREAM, LOGITS)}
    larger = {name: Coordinate(4.0, 3.0) for name in parts}
    found = {(kind, number): parts for kind in coordinate_check.PARAMETRIZATIONS for number in (2, 4)}
    found["standard", 4] = larger
    assert growth(found, "standard", STREAM) == 3.0
    rows = panels(found, found)
    assert [row[0].title.split(", ")[1] for row in rows] == ["over width", "over width", "over layers"]
    assert [len(row[0].lines) for row in rows] == [3, 3, 2]
    for row in rows:
        assert len({panel.y_range for panel in row}) == 1
    assert list(rows[0][0].lines[0].y) == pytest.approx([2.0, 4.0])
