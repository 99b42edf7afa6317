"""`slm adapter`: what a run with train.lora trained, opened by others beside its base."""

from __future__ import annotations

import json
import keyword
import random
from pathlib import Path

import pytest
import torch

import slm.train
from slm import cli
from slm.core.artifact import open_artifact
from slm.core.errors import UserError
from slm.model.load import load_model
from slm.model.lora import attach, load_adapter
from tests.serve.test_engine import reseal
from tests.tiny_run import tiny_recipe, train, write_source


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and an adapter trained beside it."""
    root = tmp_path_factory.mktemp("adapters")
    draw = random.Random(0)
    texts = [" ".join(draw.choices(keyword.kwlist, k=60)) for _ in range(120)]
    sources = [write_source(root, "code", texts)]
    base = train(tiny_recipe(root, sources, "base"))
    tuned = tiny_recipe(
        root, sources, "tuned",
        artifacts={name: str(base.folder(name)) for name in ("tokenizer", "shards")},
        train={
            "initial": str(base.folder("train")), "lora": {"rank": 4, "alpha": 8}, "tokens": 2048,
            "optimizer": {"lr": 0.02},
        },
    )  # fmt: skip
    slm.train.run(tuned)
    return root / "runs"


def test_beside_its_base_it_is_the_merged_model(runs: Path, tmp_path: Path) -> None:
    cli.dispatch(["adapter", str(runs / "tuned"), str(tmp_path / "adapter")])
    found = load_adapter(tmp_path / "adapter")
    initial = open_artifact(_newest(runs / "base"), "train")
    assert found.base == initial.fingerprint
    model, merged = load_model(initial.path), load_model(_newest(runs / "tuned"))
    attach(model, found)
    tokens_BT = torch.arange(16).view(1, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens_BT), merged(tokens_BT), atol=1e-5, rtol=0)
        assert not torch.allclose(load_model(initial.path)(tokens_BT), merged(tokens_BT), atol=1e-3)
    assert (tmp_path / "adapter" / "adapter.gguf").is_file()
    assert open_artifact(tmp_path / "adapter", "adapter").counts["rank"] == 4


def test_it_says_where_its_base_has_been_exported_for_transformers(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(name: str) -> str:
        cli.dispatch(["adapter", str(runs / "tuned"), str(tmp_path / name)])
        return str(json.loads((tmp_path / name / "adapter_config.json").read_text())["base_model_name_or_path"])

    assert told("before") == ""
    folder = runs / "base" / "export"
    (folder / "hf").mkdir(parents=True)
    base = open_artifact(_newest(runs / "base"), "train")
    checkpoint = {"fingerprint": "f" * 64, "kind": "train", "path": "../train", "settings": {}}
    reseal(folder, {**base.manifest, "kind": "export", "parents": {"train": checkpoint}})
    assert told("another") == ""
    checkpoint["fingerprint"] = base.fingerprint
    reseal(folder, {**base.manifest, "kind": "export", "parents": {"train": checkpoint}})
    monkeypatch.chdir(runs.parent)
    assert told("after") == "runs/base/export/hf"
    with pytest.raises(UserError, match=r"inputs.base exported: false -> true\); .* or add redo=true to replace it"):
        told("before")
    cli.dispatch(["adapter", str(runs / "tuned"), str(tmp_path / "before"), "redo=true"])
    assert told("before") == "runs/base/export/hf"


def test_a_run_without_adapters_has_none(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"was trained without train\.lora"):
        cli.dispatch(["adapter", str(runs / "base"), str(tmp_path / "adapter")])
    with pytest.raises(UserError, match="usage: slm adapter CHECKPOINT FOLDER"):
        cli.dispatch(["adapter", str(runs / "base")])


def _newest(run: Path) -> Path:
    return run / "train" / (run / "train" / "latest").read_text().strip()
