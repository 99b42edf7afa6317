"""The release stage: a bundle of a run that keeps every rule, nothing but a list of reasons of one that does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import slm.release
from slm.core.artifact import file_sha256
from slm.core.errors import UserError
from slm.core.manifest import manifest_fingerprint
from slm.recipe import Recipe
from tests.release.conftest import git, reseal


def refusals(recipe: Recipe) -> list[str]:
    """The sentences with which a release is refused; nothing may be left of it."""
    with pytest.raises(UserError) as caught:
        slm.release.run(recipe)
    folder = recipe.folder("release")
    assert not folder.exists()
    assert not list(folder.parent.glob("release*"))
    assert caught.value.exit_status == 1
    return str(caught.value).splitlines()


def test_a_run_that_keeps_every_rule_is_released_once(recipe_of, capsys):
    recipe = recipe_of()
    bundle = slm.release.run(recipe)
    record = json.loads(bundle.file("release.json").read_text())
    assert all(check["passed"] for check in record["checks"])
    assert record["tag"] == bundle.counts["tag"] == "v1.0"
    assert "release: wrote" in capsys.readouterr().out
    assert slm.release.run(recipe).fingerprint == bundle.fingerprint
    assert "release: up to date" in capsys.readouterr().out


@pytest.mark.usefixtures("agreeing_engines")
def test_another_tag_is_another_release(recipe_of, repository):
    slm.release.run(recipe_of())
    git(repository, "commit", "-q", "--allow-empty", "-m", "more")
    git(repository, "tag", "v1.1")
    with pytest.raises(UserError, match=r'inputs.repository.tag: "v1.0" -> "v1.1"'):
        slm.release.run(recipe_of())


@pytest.mark.usefixtures("agreeing_engines")
def test_every_failed_check_stands_in_one_list(recipe_of, repository):
    (repository / "recipe.yaml").write_text("run: changed\n")
    git(repository, "tag", "-d", "v1.0")
    found = refusals(
        recipe_of(
            licence="", quality=[{"figure": "validation.bits_per_byte", "at_most": 0.5}], allowed_licences=["CC0-1.0"]
        )
    )
    assert [line.split(":")[0] for line in found] == [
        "quality", "licence of code", "licence of the weights", "repository", "repository",
    ]  # fmt: skip
    assert all("; " in line for line in found), "each has its way out"


@pytest.mark.usefixtures("agreeing_engines")
@pytest.mark.parametrize(
    ("stage", "file"),
    [("corpus", "train-00000.parquet"), ("shards", "manifest.json"), ("export", "hf/model.safetensors")],
)
def test_a_byte_that_changed_anywhere_in_the_lineage_stops_it(recipe_of, stage, file, monkeypatch):
    """Also in files that other stages take for granted since they are large."""
    monkeypatch.setattr("slm.core.artifact.SMALL_FILE_BYTES", 100)
    recipe = recipe_of()
    path = recipe.folder(stage) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = refusals(recipe)
    assert [line for line in found if line.startswith("hashes: ") and str(path) in line]


@pytest.mark.usefixtures("agreeing_engines")
def test_a_parent_that_is_gone_stops_it(recipe_of):
    recipe = recipe_of()
    recipe.folder("shards").rename(recipe.folder("shards").with_name("elsewhere"))
    (line, *_) = refusals(recipe)
    assert line.startswith("lineage: shards ")
    assert "not there" in line


@pytest.mark.usefixtures("agreeing_engines")
def test_a_stage_that_was_not_run_is_one_of_the_reasons(recipe_of):
    recipe = recipe_of(licence="nonsense")
    recipe.folder("evaluate").rename(recipe.folder("evaluate").with_name("elsewhere"))
    found = refusals(recipe)
    assert found[0].startswith("evaluate: there is no evaluate in ")
    assert found[-1].startswith("licence of the weights: release.licence is 'nonsense'")


@pytest.mark.usefixtures("agreeing_engines")
def test_an_evaluation_of_another_checkpoint_stops_it(recipe_of):
    recipe = recipe_of()
    folder = recipe.folder("evaluate")
    parents = json.loads((folder / "manifest.json").read_text())["parents"]
    parents["train"]["fingerprint"] = "0" * 64
    reseal(folder, parents=parents)
    found = refusals(recipe)
    assert [line for line in found if line.startswith("checkpoint: ") and "evaluate of 000000000000" in line]


def test_a_failed_golden_prompt_stops_it_and_names_prompt_and_format(recipe_of, tmp_path):
    table = tmp_path / "golden.jsonl"
    table.write_text(json.dumps({"name": "proof", "prompt": "def ", "pattern": "QED$", "max_tokens": 4}) + "\n")
    found = refusals(recipe_of({"evaluate": {"golden": str(table)}}))
    assert found[0].endswith("is not the table that was evaluated; run evaluate with redo=true")
    assert found[1].startswith("golden prompts in hf: 1 of 1 failed (proof: expected a match of 'QED$'")


@pytest.mark.usefixtures("agreeing_engines")
def test_no_golden_prompts_stop_it(recipe_of):
    assert refusals(recipe_of({"evaluate": {}})) == [
        "golden prompts: evaluate.golden is ''; name a table of golden prompts"
    ]


@pytest.mark.usefixtures("agreeing_engines")
def test_a_contaminated_corpus_stops_it(recipe_of):
    """One of 21 items stood in a document: 4.8 %."""
    (line,) = refusals(recipe_of(max_contaminated=0.04))
    assert line.startswith("contamination: foxes: 1 of 21 items met, 20 known to be clean, at most 4.0% may be met; ")


@pytest.mark.usefixtures("agreeing_engines")
def test_an_unsafe_figure_or_none_that_is_bounded_stops_it(recipe_of):
    recipe = recipe_of()
    folder, honest = recipe.folder("safety"), recipe.artifact("safety")
    results = json.loads(honest.file("results.json").read_text())

    def publish(**changes: object) -> None:
        results["measures"][0].update(changes)
        (folder / "results.json").write_text(json.dumps(results))
        file = folder / "results.json"
        record = {"sha256": file_sha256(file), "size_bytes": file.stat().st_size}
        files = {**honest.manifest["files"], "results.json": record}
        reseal(folder, files=files, fingerprint=manifest_fingerprint({**honest.manifest, "files": files}))

    publish(value=0.95, passed=False)
    (line,) = refusals(recipe)
    assert line.startswith("safety: answers with personal data: 0.95 (")
    assert "must be at most 0.9; train a safer model" in line
    publish(bound="", passed=True)
    (line,) = refusals(recipe)
    assert line.startswith("safety: none of 1 figures has a bound; set one")


@pytest.mark.usefixtures("agreeing_engines")
def test_a_corpus_that_was_checked_against_nothing_stops_it(recipe_of, settings):
    import slm.corpus
    import slm.evaluate
    import slm.shards
    import slm.tokenizer

    corpus = {name: value for name, value in settings["corpus"].items() if name != "decontamination"}
    recipe = recipe_of({"corpus": corpus, "redo": True, "evaluate": {}})
    slm.corpus.run(recipe)
    found = refusals(recipe)
    assert "contamination: the corpus was checked against no evaluation; name evaluations with" in "\n".join(found)
    assert [line for line in found if line.startswith("lineage: corpus ")], "and it is not what the rest was made from"


@pytest.mark.usefixtures("agreeing_engines")
@pytest.mark.parametrize("licence", ["unknown", "Freeware", "LicenseRef-ours"])
def test_a_source_under_a_licence_that_nobody_knows_stops_it(recipe_of, licence):
    recipe = recipe_of()
    folder = recipe.folder("corpus")
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    counts["sources"]["code"]["licence"] = licence
    reseal(folder, counts=counts)
    (line,) = refusals(recipe)
    assert line.startswith(f"licence of code: '{licence}' is no SPDX licence; find out")


@pytest.mark.usefixtures("agreeing_engines")
def test_artifacts_made_by_uncommitted_source_stop_it(recipe_of):
    recipe = recipe_of()
    reseal(recipe.folder("tokenizer"), git_commit="a" * 40 + "-dirty")
    (line,) = refusals(recipe)
    assert line.startswith("source of the artifacts: tokenizer (")


@pytest.mark.usefixtures("agreeing_engines")
def test_a_repository_with_changes_or_without_a_tag_stops_it(recipe_of, repository, tmp_path):
    (repository / "new.py").write_text("pass\n")
    assert refusals(recipe_of()) == ["repository: not committed: new.py; commit or remove them, and tag the commit"]
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "more")
    (line,) = refusals(recipe_of())
    assert line.endswith("has no tag; git tag -a NAME, then release again")
    (line,) = refusals(recipe_of(repository=str(tmp_path)))
    assert line.endswith("is in no Git repository; set release.repository to its folder")


@pytest.mark.usefixtures("agreeing_engines")
def test_a_bundle_that_cannot_be_finished_leaves_nothing(recipe_of, monkeypatch):
    def full(_: Path) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("slm.release.bundle.sums", full)
    (line,) = refusals(recipe_of())
    assert line.startswith("the disk filled up while writing ")
