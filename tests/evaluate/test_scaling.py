from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.evaluate.measurements import evaluation_of
from slm.evaluate.scaling import rungs
from slm.model.config import ModelConfig
from slm.model.counting import flops_per_token, num_parameters
from tests.evaluate.planted import document_rows, publish, publish_checkpoint, publish_corpus


@pytest.fixture
def ladder(tmp_path: Path) -> list[Artifact]:
    """Three runs, the one with most tokens first."""
    corpus = publish_corpus(tmp_path / "corpus")
    return [
        publish(
            tmp_path / f"run-{tokens}", corpus, document_rows(shift, 1),
            checkpoint=publish_checkpoint(tmp_path / f"run-{tokens}", tokens),
        )
        for tokens, shift in ((4_000_000, 0.0), (1_000_000, 0.3), (2_000_000, 0.1))
    ]  # fmt: skip


def test_runs_are_points_by_computation(ladder: list[Artifact]) -> None:
    found = rungs(ladder)
    assert [one.name for one in found] == ["run-1000000", "run-2000000", "run-4000000"]
    model = ModelConfig()
    for one, tokens in zip(found, (1e6, 2e6, 4e6), strict=True):
        assert (one.point.parameters, one.point.tokens) == (num_parameters(model), tokens)
        assert one.point.flops == pytest.approx(flops_per_token(model, 256) * tokens)
        assert one.bits.low < one.point.loss == one.bits.value < one.bits.high
    assert found[0].point.loss > found[1].point.loss > found[2].point.loss


def test_runs_on_other_documents_or_given_twice_are_refused(ladder: list[Artifact], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two runs are named run-1000000; give each run once"):
        rungs([*ladder, ladder[1]])
    corpus = evaluation_of(tmp_path / "run-1000000").manifest["parents"]["corpus"]
    assert corpus["kind"] == "corpus"
    other = publish(
        tmp_path / "other", publish_corpus(tmp_path / "more"), document_rows(0.0, 1)[1:],
        checkpoint=publish_checkpoint(tmp_path / "other", 5_000_000),
    )  # fmt: skip
    with pytest.raises(UserError, match="bits per byte was measured on different items: 1 only in"):
        rungs([*ladder, other])


def test_a_checkpoint_that_is_another_now_is_refused(ladder: list[Artifact], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "run-1000000" / "train")
    publish_checkpoint(tmp_path / "run-1000000", 1_000_000, seed=5)
    with pytest.raises(UserError, match=r"was made from checkpoint \w{12}, but .* is now \w{12}; evaluate again"):
        rungs(ladder)
