"""From plain values to a `Recipe`: every problem at once, rules between sections, where artifacts lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from slm.core.artifact import LATEST, Spec, create, make, open_artifact
from slm.core.config import Config
from slm.core.errors import ProblemsError, UserError
from slm.recipe import STAGES, Recipe, build_recipe, field_of, is_section, known_keys


def problems(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ProblemsError) as caught:
        build_recipe(values)
    return caught.value.problems


def test_the_defaults_are_a_sound_recipe() -> None:
    assert build_recipe({}) == Recipe()


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().train.tokens = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"shards": {"seq_len": 1024}},
         "shards.seq_len (1,024) must not exceed model.max_seq_len (512); lower it or pick a longer model"),
        ({"tokenizer": {"vocab_size": 4096}},
         "model.vocab_size (2,048) must equal tokenizer.vocab_size (4,096); set both to the same number"),
        ({"train": {"batch_tokens": 9000}},
         "train.batch_tokens (9,000) must be a multiple of train.micro_batch_rows x shards.seq_len "
         "(8 x 256 = 2,048); the nearest is 8,192"),
        ({"corpus": {"sources": [{"kind": "stdlib"}, {"kind": "stdlib"}]}},
         "corpus.sources: two sources are named stdlib; give each a name of its own"),
        ({"shards": {"mixture": [{"sources": [{"source": "web", "weight": 1.0}]}]}},
         "shards.mixture (web) must name exactly the sources of the corpus (stdlib)"),
        ({"evaluate": {"context_tokens": 1024}},
         "evaluate.context_tokens (1,024) must not exceed model.max_seq_len (512); lower it or pick a longer model"),
        ({"evaluate": {"stride_tokens": 300}}, "evaluate.stride_tokens (300) must not exceed the window (256)"),
        ({"start": "train", "stop": "corpus"},
         f"from=train comes after to=corpus; the order is {' -> '.join(STAGES)}"),
        ({"objective": {"kind": "distill", "distill": {"teacher": "t"}},
          "train": {"source_sampling": {"every_steps": 5}}},
         "train.source_sampling.every_steps (5) goes by the loss of each source, which objective.kind=distill does not "
         "tell apart; set it to 0"),
        ({"model": {"heads": 3}}, "model: heads (3) must be a multiple of kv_heads (2)"),
        ({"train": {"schedule": {"warmup_tokens": 2_000_000}}},
         "train: schedule.warmup_tokens (2,000,000) must be less than tokens (1,000,000)"),
    ],
)  # fmt: skip
def test_a_broken_rule_names_keys_values_and_the_way_out(values: dict[str, Any], problem: str) -> None:
    assert problems(values) == [problem]


def test_all_problems_come_together_and_rules_skip_sections_that_are_broken_already() -> None:
    found = problems(
        {
            "zzz": 1,
            "run": "",
            "model": {"layres": 2, "vocab_size": 1},
            "tokenizer": {"vocab_size": 4096},
            "shards": {"seq_len": "long"},
            "start": "report",
            "stop": "corpus",
        }
    )
    assert [problem.partition(":")[0] for problem in found] == [
        "zzz", "model.vocab_size", "model.layres", "shards.seq_len", "run"
    ]  # fmt: skip


def test_an_unknown_key_names_the_nearest_anywhere_or_lists_its_neighbours() -> None:
    assert problems({"train": {"lr": 1}}) == ["train.lr: no such key; did you mean train.optimizer.lr?"]
    assert problems({"train": {"seq_len": 1}}) == ["train.seq_len: no such key; did you mean shards.seq_len?"]
    assert problems({"vocab_size": 1}) == ["vocab_size: no such key; did you mean model.vocab_size?"]
    assert problems({"objective": {"qqqq": 1}}) == [
        "objective.qqqq: no such key; here are kind, distill, preference, label_smoothing, z_loss"
    ]
    assert problems({"corpus": {"sources": [{"kind": "stdlib", "licens": "x"}]}}) == [
        "corpus.sources.0.licens: no such key; did you mean licence?"
    ]


def test_keys_are_known_to_any_depth() -> None:
    keys = list(known_keys())
    assert {"run", "train", "train.schedule.kind", "corpus.sources.kind", "model.rope_scaling.factor"} <= set(keys)
    assert len(keys) == len(set(keys))
    assert all(field_of(key) is not None for key in keys)
    assert field_of("train.tokens.more") is None
    assert [is_section(key) for key in ("train", "train.schedule", "corpus.sources", "seed", "no")] == [
        True, True, False, False, False
    ]  # fmt: skip


def test_artifacts_lie_in_the_run_unless_taken_from_elsewhere(tmp_path: Path) -> None:
    recipe = build_recipe({"runs_dir": str(tmp_path), "run": "a/b", "artifacts": {"corpus": "/data/corpus"}})
    assert recipe.folder("shards") == tmp_path / "a" / "b" / "shards"
    assert recipe.folder("corpus") == Path("/data/corpus")


def test_an_artifact_is_opened_through_the_pointer_to_the_latest(tmp_path: Path) -> None:
    recipe = build_recipe({"runs_dir": str(tmp_path), "run": "r"})
    for step in (1, 2):
        make(recipe.folder("train") / f"step-{step}", Spec("train", Config(), seed=step), lambda _: None)
    with pytest.raises(UserError, match=r"there is no train in .*train"):
        recipe.artifact("train")
    (recipe.folder("train") / LATEST).write_text("step-2\n", encoding="utf-8")
    assert recipe.artifact("train").manifest["seed"] == 2


def test_another_kind_of_artifact_is_refused_by_name(tmp_path: Path) -> None:
    recipe = build_recipe({"artifacts": {"corpus": str(tmp_path / "x")}})
    make(tmp_path / "x", Spec("tokenizer", Config()), lambda _: None)
    with pytest.raises(UserError, match="x holds a tokenizer, but a corpus is needed here; correct the path"):
        recipe.artifact("corpus")


def test_a_misspelt_recipe_is_recognised() -> None:
    with pytest.raises(ProblemsError, match=r"^recpe: no such key; did you mean recipe\?$"):
        build_recipe({"recpe": "smoke"})


def test_what_a_checkpoint_from_elsewhere_was_made_from_is_found_with_it(tmp_path: Path) -> None:
    with create(tmp_path / "there/corpus", Spec("corpus", Recipe().corpus)):
        pass
    corpus = open_artifact(tmp_path / "there/corpus")
    with create(tmp_path / "there/shards", Spec("shards", Recipe().shards, {"corpus": corpus})):
        pass
    shards = open_artifact(tmp_path / "there/shards")
    with create(tmp_path / "there/train/step-1", Spec("train", Recipe().train, {"shards": shards})):
        pass
    (tmp_path / "there/train/latest").write_text("step-1\n")
    values = {"run": "here", "runs_dir": str(tmp_path), "artifacts": {"train": str(tmp_path / "there/train")}}
    recipe = build_recipe(values)
    assert recipe.artifact("corpus").fingerprint == corpus.fingerprint
    assert recipe.place("shards").resolve() == tmp_path / "there/shards"
    assert recipe.place("export") == tmp_path / "here/export"
    with pytest.raises(UserError, match=r"there is no tokenizer in .*here/tokenizer"):
        recipe.artifact("tokenizer")
    with create(tmp_path / "here/corpus", Spec("corpus", Recipe().corpus)):
        pass
    assert recipe.place("corpus") == tmp_path / "here/corpus", "the run's own comes first"
    assert build_recipe({"run": "other", "runs_dir": str(tmp_path)}).place("corpus") == tmp_path / "other/corpus"
