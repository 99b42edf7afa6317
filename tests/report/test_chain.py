"""The table and page of a chain: paired differences from the step before, a teacher only where it compares."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slm.core.artifact import Artifact
from slm.report.chain import TEACHER, chain_page, rows_of, told
from tests.evaluate.planted import document_rows, publish, publish_checkpoint, publish_corpus


@pytest.fixture
def evaluated(tmp_path: Path) -> Any:
    corpus = publish_corpus(tmp_path / "corpus")

    def make(name: str, shift: float, rows: int = 60) -> Artifact:
        run = tmp_path / name
        checkpoint = publish_checkpoint(run, 1000)
        return publish(run, corpus, document_rows(shift, 1)[:rows], checkpoint=checkpoint)

    return make


COMPRESSED: Any = SimpleNamespace(
    counts={
        "variants": {
            "int4": {
                "bits_per_byte": 1.6, "increase": 0.05, "interval_95": [0.04, 0.06], "mean_kl": 0.03, "size_bytes": 5000
            }
        }
    }
)  # fmt: skip


def test_each_step_stands_beside_the_one_before(evaluated: Any) -> None:
    steps = {"distill": evaluated("a", 0.3), "lora": evaluated("b", 0.0), "again": evaluated("c", 0.0)}
    rows = rows_of(evaluated("teacher", -0.5), steps, COMPRESSED)
    assert [row.name for row in rows] == [TEACHER, "distill", "lora", "again", "int4"]
    teacher, distill, lora, again, int4 = rows
    assert teacher.gap is distill.gap is None
    assert lora.gap is not None
    assert lora.gap.value == pytest.approx(lora.bits_per_byte - distill.bits_per_byte)
    assert lora.gap.low < lora.gap.value < lora.gap.high < 0
    assert again.gap is not None
    assert again.gap.value == 0
    assert told([int4]) == [("int4", "–", "+0.0500 [+0.0400, +0.0600]", "0.0300", "5.0 kB")]
    page = chain_page("<b>run", rows)
    assert "<b>run" not in page
    assert "+0.0500 [+0.0400, +0.0600]" in page
    assert page.count("<svg") == 2


def test_a_teacher_measured_on_other_documents_is_left_out(evaluated: Any) -> None:
    rows = rows_of(evaluated("teacher", 0.0, rows=40), {"only": evaluated("a", 0.0)}, None)
    assert [row.name for row in rows] == ["only"]
    assert "<svg" not in chain_page("run", rows)
