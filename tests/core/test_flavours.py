"""Flavours from manifests alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm.core.errors import UserError
from slm.core.flavours import cells, flavours, holds_flavours, show
from tests.shipped import COST, flavour, publish_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    variant = {**COST, "increase": 0.003, "size_bytes": 9_000_000, "settings": {"bits": 4}}
    return publish_run(
        tmp_path / "ship",
        {"hf": flavour(60_000_000, 0.0, 100, "hf"), "gguf_q8_0": flavour(16_000_000, 0.001, 250, "model-q8_0.gguf")},
        {"int4": variant},
    )


def test_a_run_has_its_files_and_variants_beside_its_checkpoint(run: Path) -> None:
    found = flavours([run])
    assert [one.name for one in found] == ["checkpoint", "hf", "gguf_q8_0", "int4"]
    by_name = {one.name: one for one in found}
    assert by_name["gguf_q8_0"].path == run / "export" / "model-q8_0.gguf"
    assert by_name["int4"].cost == {
        **COST, "increase": 0.003, "interval_95": [-0.001, 0.004], "perplexity_interval_95": [-0.01, 0.05]
    }  # fmt: skip
    assert (by_name["int4"].speed, by_name["checkpoint"].cost) == (None, None)
    assert by_name["checkpoint"].path.resolve() == (run / "train" / "step-1").resolve()


def test_a_row_shows_what_was_measured_and_a_dash_for_what_was_not(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {one.name: cells(one) for one in flavours([run])}
    assert rows["gguf_q8_0"] == (
        "gguf_q8_0", "16.0 MB", "+0.0010 [-0.0010, +0.0040]", "0.002", "97.0 %", "0.20 / 0.20",
        "0.20 / 0.20", "2,500", "250 (× 2.50)", "50.0 MB", "some engine",
    )  # fmt: skip
    assert rows["int4"][5:-1] == ("-",) * 5
    assert rows["checkpoint"][2:5] == ("-",) * 3
    show(flavours([run]))
    assert "gguf_q8_0" in capsys.readouterr().out


def test_flavours_of_several_artifacts_are_told_apart_by_their_runs(run: Path, tmp_path: Path) -> None:
    other = publish_run(tmp_path / "other", {"hf": flavour(5, 0.1, None)})
    found = flavours([run / "export", other / "export"])
    assert {"ship: hf", "other: hf", "ship: checkpoint"} <= {one.name for one in found}
    assert holds_flavours(run / "compress")
    assert not holds_flavours(run)


def test_one_that_could_not_be_timed_has_no_speed(tmp_path: Path) -> None:
    record = flavour(5, 0.1, None) | {"speed": {"unknown": "needs a GPU"}}
    found = flavours([publish_run(tmp_path / "ship", {"awq": record})])[-1]
    assert found.timed is None
    assert cells(found)[-2] == "-"


def test_a_place_without_flavours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no export and no compressed model; give a run"):
        flavours([tmp_path])
