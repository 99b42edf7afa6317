"""The page of flavours."""

from __future__ import annotations

from pathlib import Path

from slm.core.flavours import flavours
from slm.report.flavours import flavours_page, trade_offs
from tests.shipped import flavour, publish_run

TASK = {
    "task": "quiz", "metric": "acc", "value": 0.5, "difference": -0.02, "interval_95": [-0.05, 0.01], "items": 200
}  # fmt: skip


def test_quality_is_drawn_against_size_and_speed_for_what_was_measured(tmp_path: Path) -> None:
    run = publish_run(
        tmp_path / "ship",
        {
            "gguf_q8_0": flavour(16_000_000, 0.001, 250, tasks=[TASK]),
            "awq": flavour(9_000_000, 0.01, None) | {"speed": {"unknown": "it needs a GPU"}},
        },
    )
    found = flavours([run])
    size, speed = trade_offs(found).figures
    assert "gguf_q8_0" in size.svg
    assert "awq" in size.svg
    assert "gguf_q8_0" in speed.svg
    assert "awq" not in speed.svg
    page = flavours_page(found)
    assert "awq was not timed: it needs a GPU" in page
    assert "-0.0200 [-0.0500, +0.0100]" in page


def test_a_run_without_figures_says_how_to_get_them(tmp_path: Path) -> None:
    bare = {"file": "x", "engine": "y", "size_bytes": 5}
    section = trade_offs(flavours([publish_run(tmp_path / "ship", {"hf": bare})]))
    assert not section.figures
    assert "export.timing.turns" in section.lead
