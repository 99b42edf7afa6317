"""One file out of many: the same tensors, checked on the way, nothing written over; two processes: test_parallel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slm import cli, consolidate
from slm.core.artifact import Artifact, Draft, Spec, make, open_artifact
from slm.core.errors import DamagedError, ProblemsError, UserError
from slm.model.config import ModelConfig
from slm.model.load import load_model, save_model
from slm.model.transformer import build

SHAPE = ModelConfig(vocab_size=97, width=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn_width=64, max_seq_len=32)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Artifact:
    """Step 7 of a run, its model in many files."""

    def write(draft: Draft) -> None:
        save_model(build(SHAPE, 3), draft.path, max_shard_bytes=20_000)
        save_file({"adamw.exp_avg.norm.weight": torch.zeros(32)}, draft.path / "optimizer.safetensors")

    made = make(tmp_path / "run" / "train" / "step-00000007", Spec("train", SHAPE), write)
    (tmp_path / "run" / "train" / "latest").write_text("step-00000007\n")
    assert len(list(made.path.glob("model-*.safetensors"))) > 3
    return made


@pytest.mark.parametrize("where", ["run", "run/train", "run/train/step-00000007"])
def test_all_tensors_of_the_newest_checkpoint_come_into_one_file_bit_for_bit(checkpoint, tmp_path, where):
    cli.dispatch(["consolidate", str(tmp_path / where), str(tmp_path / "one")])
    made = open_artifact(tmp_path / "one", "model", verify="full")
    assert sorted(made.manifest["files"]) == ["model.safetensors", "model_config.json"]
    assert made.manifest["parents"]["train"]["fingerprint"] == checkpoint.fingerprint
    found, expected = load_file(made.file("model.safetensors")), build(SHAPE, 3).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert made.counts == {"tensors": len(expected), "parameters": sum(t.numel() for t in expected.values())}
    tokens_BT = torch.arange(8)[None]
    torch.testing.assert_close(load_model(made.path)(tokens_BT), build(SHAPE, 3)(tokens_BT))


def test_the_same_model_is_not_written_twice_and_nothing_else_is_written_over(checkpoint, tmp_path, capsys):
    first = consolidate.consolidate(checkpoint.path, tmp_path / "one")
    before = (first.path / "model.safetensors").stat().st_mtime_ns
    assert consolidate.consolidate(tmp_path / "run", tmp_path / "one") == first
    assert (first.path / "model.safetensors").stat().st_mtime_ns == before
    assert f"model: up to date in {first.path}" in capsys.readouterr().out
    spec = Spec("train", SHAPE, seed=1)
    other = make(tmp_path / "other", spec, lambda draft: save_model(build(SHAPE, 4), draft.path))
    for taken in (first.path, tmp_path / "run"):
        with pytest.raises(UserError, match=f"{taken} exists and is not the model of .*other; name a folder that"):
            consolidate.consolidate(other.path, taken)
    assert open_artifact(first.path, "model", verify="full") == first


def test_a_damaged_file_of_the_checkpoint_is_named_and_nothing_is_written(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("slm.core.artifact.SMALL_FILE_BYTES", 0)  # as a real one, which opening does not hash
    file = checkpoint.path / "model.safetensors.index.json"
    file.write_text(file.read_text().replace("00001", "00002", 1))
    with pytest.raises(DamagedError, match=r"model\.safetensors\.index\.json is damaged: its sha256"):
        consolidate.consolidate(checkpoint.path, tmp_path / "one")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_file_that_was_not_written_as_it_should_is_not_published(checkpoint, tmp_path, monkeypatch):
    def broken(tensors, path, **options):
        save_file({name: t + 1 if name == "norm.weight" else t for name, t in tensors.items()}, path, **options)

    monkeypatch.setattr(consolidate, "save_file", broken)
    with pytest.raises(DamagedError, match=r"norm\.weight is not in .*one/model\.safetensors what it is in .*step-0"):
        consolidate.consolidate(checkpoint.path, tmp_path / "one")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_tensors_are_mapped_instead_of_loaded(checkpoint):
    tensors = consolidate._mapped(checkpoint.path)
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(checkpoint.path) in line]
    assert {line.split()[-1] for line in mapped} == {str(file) for file in checkpoint.path.glob("model-*.safetensors")}
    assert len(tensors) == len(build(SHAPE, 3).state_dict())


@pytest.mark.parametrize("arguments", [[], ["a"], ["a", "b", "c"]])
def test_without_two_paths_it_says_how(arguments):
    with pytest.raises(ProblemsError, match="usage: slm consolidate CHECKPOINT FOLDER, such as runs/quickstart/train"):
        cli.dispatch(["consolidate", *arguments])


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no train in .*nowhere \(no manifest\.json\); make it first"):
        consolidate.consolidate(tmp_path / "nowhere", tmp_path / "one")
