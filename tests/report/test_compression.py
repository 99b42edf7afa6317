from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from slm.core.artifact import Artifact
from slm.recipe import Recipe
from slm.report.compression import compression
from slm.report.gather import Run, finished_artifacts, gather

Make = Callable[..., dict[str, Artifact]]


@pytest.fixture
def run(recipe: Recipe, make_run: Make) -> Run:
    make_run(recipe, "compress", "export")
    return gather(recipe, finished_artifacts(recipe))


def test_every_variant_and_every_file_has_a_row_with_what_was_measured_of_it(run: Run) -> None:
    section = compression(run)
    rows = {row[0]: row[1:] for row in section.tables[0].rows}
    assert set(rows) == {"int8", "int4", "gguf_q8_0"}
    assert rows["int4"][:4] == ("1.0 kB", "+0.0131 [+0.0111, +0.0151]", "0.0044", "97.4 %")
    assert rows["gguf_q8_0"][:4] == ("2.1 kB", "-", "-", "-")  # nobody measured that on held-out text
    assert section.lead.startswith(
        "The smallest variant, int4, takes 13.1 % of the checkpoint's 7.8 kB and costs +0.0131 [+0.0111, +0.0151] bits"
    )
    assert section.remarks == ["int4: groups of 64 in layer 0"]
    assert "int4" in section.figures[0].svg


def test_what_was_made_from_another_checkpoint_is_marked(run: Run) -> None:
    assert compression(replace(run, stale={"compress": "train"})).notices[0].startswith("Out of date")


def test_without_variants_the_command_that_makes_them_is_named(run: Run) -> None:
    assert compression(replace(run, artifacts={"train": run.artifacts["train"]})).missing == (
        "slm compress run=synthetic compress=ship"
    )
