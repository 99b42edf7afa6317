from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from slm.core.artifact import Artifact
from slm.recipe import Recipe
from slm.report.compression import SPEED, compression
from slm.report.gather import Run, finished_artifacts, gather

Make = Callable[..., dict[str, Artifact]]


@pytest.fixture
def run(recipe: Recipe, make_run: Make) -> Run:
    make_run(recipe, "compress", "export")
    return gather(recipe, finished_artifacts(recipe))


def test_every_variant_and_every_file_has_a_row_with_what_was_measured_of_it(run: Run) -> None:
    section = compression(run)
    rows = {row[0]: row[1:] for row in section.tables[0].rows}
    assert list(rows) == [
        "checkpoint, float32", "int8, weights", "int4, weights", "Hugging Face, file", "GGUF F32, file",
        "GGUF F16, file", "GGUF BF16, file", "GGUF Q8_0, file",
    ]  # fmt: skip
    assert rows["int4, weights"] == (
        "1.0 kB", "13.1 %", "+0.0131 [+0.0111, +0.0151]", "0.00437", "97.4 %", "512 held-out tokens",
        "awq, 4 bits, groups of 128",
    )  # fmt: skip
    assert rows["GGUF Q8_0, file"][2] == "–"  # nobody measured that on held-out text
    assert rows["GGUF Q8_0, file"][5] == "412 tokens of prompts"
    assert section.lead.startswith("The smallest, int4, takes 13.1 % of the checkpoint's 7.8 kB and costs +0.0131 [")
    assert section.remarks == ["int4: groups of 64 in layer 0"]
    assert "int4" in section.figures[0].svg


def test_files_that_were_measured_or_timed_say_so(run: Run) -> None:
    assert SPEED not in compression(run).tables[0].columns
    file = {**run.parity["formats"]["gguf_q8_0"], "increase": 0.001, "interval_95": [0.0, 0.002],
            "tokens_per_second": 812.4}  # fmt: skip
    table = compression(replace(run, parity={**run.parity, "formats": {"gguf_q8_0": file}})).tables[0]
    assert table.columns[-1] == SPEED
    assert table.rows[-1][3] == "+0.0010 [+0.0000, +0.0020]"
    assert [row[-1] for row in table.rows] == ["–", "–", "–", "812"]


def test_without_variants_the_command_that_makes_them_is_named(run: Run) -> None:
    bare = {name: artifact for name, artifact in run.artifacts.items() if name != "compress"}
    assert compression(replace(run, artifacts=bare)).missing == "slm compress run=synthetic compress=ship"
