from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.axes import Axes

from slm.report.png import Line, Panel, draw


def test_every_panel_and_line_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, inner = [], Axes.plot

    def watched(self: Axes, *arguments: object, **options: object) -> object:
        drawn.append(options["label"])
        return inner(self, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", watched)
    line = Line([1, 10, 100], [1.0, 2.0, 4.0], "a")
    panel = Panel("t", "x", "y", [line, Line([1, 2], [3.0, 3.0], faint=True)], log_y=True, marks=[(5.0, "here")])
    draw(tmp_path / "figure.png", [[panel, panel], [panel, panel]])
    content = (tmp_path / "figure.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert drawn == ["a", None] * 4


def test_equal_panels_give_equal_files(tmp_path: Path) -> None:
    panel = Panel("t", "x", "y", [Line([1, 2], [1.0, 2.0])], y_range=(0.0, 3.0))
    for name in ("one.png", "two.png"):
        draw(tmp_path / name, [[panel]])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
