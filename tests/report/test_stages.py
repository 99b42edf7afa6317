from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import yaml

from slm.core.artifact import Artifact
from slm.recipe import Recipe, build_recipe
from slm.report import stages
from slm.report.gather import Run, command, finished_artifacts, gather

Make = Callable[..., dict[str, Artifact]]


@pytest.fixture
def run(recipe: Recipe, make_run: Make) -> Run:
    make_run(recipe, "export")
    return gather(recipe, finished_artifacts(recipe))


def test_the_command_is_what_was_typed_without_words_of_the_moment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["slm report", "recipe=quickstart", "++train.optimizer={kind: muon}", "++redo=true", "++stop=train", "-m"]
    monkeypatch.setattr(sys, "argv", typed)
    assert command(run.recipe, "pipeline") == "slm pipeline recipe=quickstart 'train.optimizer={kind: muon}'"


def test_without_a_command_the_recipe_below_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert command(run.recipe, "safety", "a=b c") == "slm safety run=synthetic 'a=b c'"
    assert (
        stages.reproduce(run)
        .codes[0]
        .text.endswith("slm pipeline run=synthetic  # with the recipe below as recipes/NAME/config.yaml")
    )


def test_the_recipe_shown_is_the_recipe(run: Run) -> None:
    shown = next(code for code in stages.reproduce(run).codes if code.folded)
    rebuilt = build_recipe(yaml.safe_load(shown.text))
    assert rebuilt.resolved() == run.recipe.resolved()


def test_the_smallest_gguf_is_the_one_to_talk_to(run: Run) -> None:
    codes = {code.title: code.text for code in stages.reproduce(run).codes}
    path = run.artifacts["export"].path / "model-q8_0.gguf"
    assert codes["Talk to it"] == f"slm chat serve.model={path}"
    assert codes["Its ancestry"] == f"slm lineage {path}"


@pytest.mark.parametrize(
    ("commit", "line"),
    [("abc123", "git checkout abc123\n"), ("abc-dirty", "git checkout abc  # and changes"), ("unknown", "slm ")],
)
def test_the_commit_is_named_where_it_is_known(
    run: Run, commit: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["slm pipeline"])
    train = run.artifacts["train"]
    other = Artifact(train.path, {**train.manifest, "git_commit": commit})
    section = stages.reproduce(replace(run, artifacts={**run.artifacts, "train": other}))
    assert section.codes[0].text.startswith(line)


def test_lineage_shows_each_artifact_with_its_parents(run: Run) -> None:
    links = {link.stage: link for link in stages.lineage(run).links}
    assert list(links) == ["corpus", "tokenizer", "shards", "train", "export"]
    for name, link in links.items():
        for parent in run.artifacts[name].manifest["parents"]:  # type: ignore[index]
            assert f"{parent} {links[parent].fingerprint}" in link.parents


def test_remarks_of_the_export_are_shown_and_unknown_formats_keep_their_names(run: Run) -> None:
    formats = {"new_format": run.parity["formats"]["gguf_f16"]}
    section = stages.export(replace(run, parity={**run.parity, "formats": formats}))
    assert section.remarks == ["gguf_f16: one greedy continuation parted at a tie of 4e-06."]
    assert section.bars[0].label == "new_format"


def test_a_difference_of_token_ids_is_shouted(run: Run) -> None:
    formats = {"gguf_f16": {**run.parity["formats"]["gguf_f16"], "token_ids_equal": False}}
    section = stages.export(replace(run, parity={**run.parity, "formats": formats}))
    assert section.tables[0].rows[0][-1] == "DIFFERENT"


def test_what_was_not_made_names_its_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["slm report", "recipe=smoke", "redo=true"])
    bare = replace(run, artifacts={"train": run.artifacts["train"]}, tokenizer={}, parity={})
    for section in (stages.tokenizer(bare), stages.shards(bare), stages.export(bare)):
        assert section.missing == f"slm {section.key} recipe=smoke"
        assert section.empty


@pytest.mark.parametrize(
    ("name", "shown"),
    [("gguf_q4_k_m", "GGUF Q4_K_M"), ("hf", "Hugging Face"), ("awq", "AutoAWQ"), ("other_kind", "other_kind")],
)
def test_formats_have_the_names_that_people_use(name: str, shown: str) -> None:
    assert stages.format_name(name) == shown
