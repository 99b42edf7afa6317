"""What a release is judged by."""

from __future__ import annotations

from slm.release.evidence import collect


def test_every_ancestor_is_there_once(recipe_of):
    evidence = collect(recipe_of())
    kinds = [artifact.kind for artifact in evidence.ancestors]
    assert sorted(kinds) == ["corpus", "evaluate", "export", "safety", "shards", "tokenizer", "train"]


def test_without_a_choice_all_formats_of_the_export_are_meant(recipe_of):
    assert collect(recipe_of(formats=[])).formats == ("hf", "gguf_f32")
    assert collect(recipe_of()).formats == ("hf",)


def test_what_is_damaged_and_what_is_missing_are_told_apart(recipe_of):
    recipe = recipe_of()
    (recipe.folder("corpus") / "manifest.json").write_text("{}")
    recipe.folder("export").rename(recipe.folder("export").with_name("gone"))
    evidence = collect(recipe)
    assert [check.name for check in evidence.missing] == ["hashes", "export"]
    assert evidence.formats == ("hf",)
