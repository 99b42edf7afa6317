from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.report.charts import (
    NARROW,
    POINTS,
    VARIABLES,
    WIDE,
    Interval,
    _settled,
    _smoothed,
    _thinned,
    bundle,
    by_layer,
    compact,
    curve,
    forest,
    loss_chart,
    scatter,
)


def steps(count: int) -> list[dict[str, Any]]:
    return [
        {"tokens": 1000 * step, "loss": 2 + 5 / step, "lr": 0.01, "grad_norm": 1 / step} for step in range(1, count + 1)
    ]


@pytest.mark.parametrize("count", [1, 2, 600])
def test_a_chart_is_sound_markup_in_the_pages_own_colours(count: int) -> None:
    rows = steps(count)
    for size in (WIDE, NARROW):
        svg = loss_chart(rows, rows[::50], size)
        root = ElementTree.fromstring(svg)
        assert root.get("viewBox") == f"0 0 {size[0]} {size[1]}"
        assert root.get("width") is None
        assert root[0].tag == "title"
        assert f"training ends at {rows[-1]['loss']:.3f}" in (root[0].text or "")
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", svg)
        assert "font-family" not in svg
        assert "var(--first)" in svg
        assert "var(--second)" in svg
        assert f"held out {rows[::50][-1]['loss']:.2f}" in svg


def test_no_placeholder_is_a_part_of_another() -> None:
    assert len(set(VARIABLES)) == len(VARIABLES) == len(set(VARIABLES.values()))


def test_the_same_rows_give_the_same_chart() -> None:
    assert loss_chart(steps(50), [], WIDE) == loss_chart(steps(50), [], WIDE)


def test_ids_of_two_charts_do_not_meet() -> None:
    one = set(re.findall(r'id="([^"]+)"', curve("one", "t", steps(30), "lr", floor=0)))
    two = set(re.findall(r'id="([^"]+)"', curve("two", "t", steps(30), "grad_norm", smooth=True, floor=0)))
    assert one
    assert not one & two


def test_a_title_is_escaped() -> None:
    assert '<title id="x-title">a &lt;b&gt; &amp; c</title>' in curve("x", "a <b> & c", steps(5), "lr")


def test_labels_of_close_curves_do_not_overlap() -> None:
    rows = steps(200)
    svg = loss_chart(rows, [{"tokens": rows[-1]["tokens"], "loss": rows[-1]["loss"] + 0.001}], WIDE)
    heights = [float(match) for match in re.findall(r'y="([\d.]+)"[^>]*>(?:train|held out)', svg)]
    assert len(heights) == 2
    assert abs(heights[0] - heights[1]) >= 14


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=1500))
def test_thinning_keeps_the_last_point_and_stays_within_the_values(values: list[float]) -> None:
    tokens = [float(index) for index in range(len(values))]
    thin_tokens, thin_values = _thinned(tokens, values)
    assert len(thin_values) <= POINTS
    assert (thin_tokens[-1], thin_values[-1]) == (tokens[-1], values[-1])
    slack = 1e-6 * max(1.0, *map(abs, values))
    assert min(values) - slack <= min(thin_values) <= max(thin_values) <= max(values) + slack
    assert thin_tokens == sorted(thin_tokens)


def test_a_smoothed_constant_is_the_constant_and_noise_shrinks() -> None:
    assert _smoothed([3.0] * 100) == [3.0] * 100
    noise = [(-1.0) ** index for index in range(200)]
    assert max(map(abs, _smoothed(noise))) < 0.6


def test_the_frame_begins_after_the_first_tokens() -> None:
    assert _settled([1.0, 4.0, 5.0, 50.0, 100.0]) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0031, "0.0031"), (950, "950"), (1500, "1.5k"), (2.4e6, "2.4M"), (3e9, "3B"), (2e12, "2T")],
)
def test_axis_numbers_are_short(value: float, text: str) -> None:
    assert compact(value) == text


@pytest.mark.parametrize("count", [1, 40])
def test_a_chart_by_layer_has_a_line_a_layer_and_leaves_out_embedding_and_head(count: int) -> None:
    names = ["embedding", *(f"{layer:02d}" for layer in range(12)), "head"]
    rows = [
        {"tokens": 1000 * step, **{f"weight_rms.{name}": 0.1 * step for name in names}, "grad_rms.00": 1.0}
        for step in range(1, count + 1)
    ]
    svg = by_layer("layers-weight_rms", "Weights", rows, "weight_rms")
    assert ElementTree.fromstring(svg)[0].text == "Weights"
    assert len(re.findall(r"<path [^>]*var\(--first\)[^>]*stroke-width: 1.5", svg)) == 12


def test_points_and_bundles_are_drawn_where_they_lie_and_named_where_told() -> None:
    drawn = scatter("s", "t", [(0, 1.0), (1, 2.0)], [(2, 1.5)], (0.5, 2.5), WIDE, x_text=["a", "b", "c"].__getitem__,
                    ticks=range(3))  # fmt: skip
    for name in "abc":
        assert f">{name}<" in drawn
    assert drawn.count("var(--first)") >= 2
    assert "var(--second)" in scatter("s", "t", [(0, 1.0)], [], (0, 2), WIDE, line=[(0, 1.0), (3, 0.5)])
    lines = bundle("b", "t", [([0.0, 1.0], False), ([1.0, 0.0], True)], (0, 1), NARROW)
    assert "var(--first)" in lines
    assert "var(--second)" in lines


def test_a_label_that_is_longer_than_the_picture_ends_in_dots() -> None:
    long = "a setting with many words " * 20
    drawn = forest("f", "t", [Interval(long, 0.1, 0.0, 0.2), Interval("short", 0.1, 0.0, 0.2)], (600, 140), "x")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert long not in texts
    assert [text for text in texts if text.endswith("…")] == [long[:99] + "…"]
    assert "short" in texts
