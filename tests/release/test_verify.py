"""Bundles verified on another machine: whole ones hold, each kind of damage is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from slm.core.artifact import Artifact
from slm.core.errors import ProblemsError, UserError
from slm.core.manifest import manifest_fingerprint
from slm.release.bundle import sums
from slm.release.verify import verify
from tests.release.conftest import reseal


@pytest.fixture
def copy(bundle: Artifact, tmp_path: Path) -> Path:
    """The bundle alone, somewhere else."""
    shutil.copytree(bundle.path, tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine is installed, which saves starting one."""
    monkeypatch.setattr("slm.release.golden.missing_engine", lambda _: "an engine")


def refused(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        verify(words)
    return str(caught.value)


def disguise(folder: Path) -> None:
    """Make the sums and the manifest fit what is there now."""
    (folder / "SHA256SUMS").write_text(sums_without_manifest(folder))
    import hashlib

    files = {
        file.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size_bytes": file.stat().st_size,
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "manifest.json"
    }  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text())
    reseal(folder, files=files, fingerprint=manifest_fingerprint({**manifest, "files": files}))


def sums_without_manifest(folder: Path) -> str:
    return "".join(f"{line}\n" for line in sums(folder).splitlines() if not line.endswith("  manifest.json"))


def test_a_whole_bundle_holds_anywhere_and_says_its_prompts_again(copy, bundle, settings, capsys):
    checks = verify([str(copy), f"corpus={settings['runs_dir']}/tiny/corpus"])
    found = {check.name: check.found for check in checks}
    assert found["golden prompts in hf"] == found["golden prompts in gguf_f32"] == "3 of 3 passed"
    again, published = found["bits per byte, measured again"].split(", published ")
    assert abs(float(again) - float(published)) < 1e-5
    assert "is whole, 6 checks held" in capsys.readouterr().out
    assert bundle.path != copy


@pytest.mark.usefixtures("quiet")
def test_engines_that_are_missing_are_named(copy, capsys):
    verify([str(copy)])
    assert capsys.readouterr().out.count("not tried: an engine is not installed here") == 2


@pytest.mark.usefixtures("quiet")
def test_truncated_missing_changed_and_added_files_are_all_named(copy):
    gguf = copy / "model-f32.gguf"
    gguf.write_bytes(gguf.read_bytes()[:1000])
    (copy / "hf/config.json").unlink()
    (copy / "hf/extra.bin").touch()
    message = refused(str(copy))
    assert message.startswith("hashes: ")
    assert "hf/config.json is missing" in message
    assert "model-f32.gguf is damaged (1,000 bytes)" in message
    assert "hf/extra.bin is no part of it" in message
    assert message.endswith("; fetch the bundle again")


@pytest.mark.usefixtures("quiet")
def test_a_download_that_broke_off_is_no_bundle(copy):
    (copy / "manifest.json").unlink()
    assert "holds no SHA256SUMS and manifest.json, so it is no bundle" in refused(str(copy))


@pytest.mark.usefixtures("quiet")
def test_a_manifest_that_was_edited_is_noticed(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "seed": 99}))
    assert "was changed after it was written" in refused(str(copy))


@pytest.mark.usefixtures("quiet")
def test_another_model_under_fitting_hashes_came_from_no_artifact(copy):
    file = copy / "model-f32.gguf"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    disguise(copy)
    message = refused(str(copy))
    assert message.startswith("origin of the files: model-f32.gguf came from no artifact of the lineage")


@pytest.mark.usefixtures("quiet")
def test_a_lineage_with_a_gap_or_a_forged_link_is_noticed(copy, tmp_path):
    shards = next((copy / "lineage").glob("shards-*.json"))
    content = shards.read_text()
    shards.unlink()
    disguise(copy)
    assert "lineage: train was made from shards " in refused(str(copy))
    forged = json.loads(content)
    forged["counts"]["seq_len"] = 7
    shards.write_text(json.dumps(forged))
    disguise(copy)
    assert "was changed after it was written" in refused(str(copy))
    files = {**forged["files"], "manifest": {"sha256": "0" * 64, "size_bytes": 1}}
    work = tmp_path / "forge"
    work.mkdir()
    (work / "manifest.json").write_text(json.dumps(forged))
    reseal(work, files=files)
    shutil.copyfile(work / "manifest.json", shards)
    disguise(copy)
    assert "has another fingerprint than it says" in refused(str(copy))


@pytest.mark.usefixtures("quiet")
def test_another_corpus_is_refused_for_measuring(copy, settings, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(Path(settings["runs_dir"]) / "tiny" / "corpus", corpus)
    shutil.copyfile(corpus / "train-00000.parquet", corpus / "validation-00000.parquet")
    manifest = json.loads((corpus / "manifest.json").read_text())
    files = {**manifest["files"], "validation-00000.parquet": manifest["files"]["train-00000.parquet"]}
    reseal(corpus, files=files)
    assert f"{corpus} holds other held-out documents than the corpus of this lineage" in refused(
        str(copy), f"corpus={corpus}"
    )


@pytest.mark.usefixtures("quiet")
def test_figures_that_were_not_measured_are_noticed(copy, settings):
    results = json.loads((copy / "evaluation/results.json").read_text())
    results["validation"]["bits_per_byte"] -= 0.01
    (copy / "evaluation/results.json").write_text(json.dumps(results))
    disguise(copy)
    message = refused(str(copy), f"corpus={settings['runs_dir']}/tiny/corpus")
    assert "bits per byte, measured again: " in message
    assert "origin of the files: evaluation/results.json" in message


@pytest.mark.parametrize("words", [[], ["a", "b"], ["a", "text=b"]])
def test_other_words_show_how(words):
    with pytest.raises(ProblemsError, match=r"usage: slm verify BUNDLE \[corpus=FOLDER\]"):
        verify(words)
