"""`slm explain`: the value, its meaning, and the layer that it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm.compose import shipped_folder
from slm.core.errors import ProblemsError
from slm.explain import explain

SMOKE = shipped_folder("recipes") / "smoke" / "config.yaml"
PIECES = shipped_folder("configs") / "model"
BIG = ["recipe=pretrain_300m"]
SMALL = [*BIG, "model=15m", "tokenizer.vocab_size=8192", "shards.seq_len=1024"]


@pytest.mark.parametrize(
    ("words", "value", "layer"),
    [
        (["recipe=smoke", "train.tokens"], "131072", str(SMOKE)),
        (["recipe=smoke", "train.tokens=5e4", "train.schedule.warmup_tokens=0", "train.tokens"], "50000",
         "the command line (train.tokens=5e4)"),
        (["recipe=smoke", "++seed=7", "seed"], "7", "the command line (++seed=7)"),
        (["recipe=smoke", "train.clip_norm"], "1.0", "the default in src/slm/train/config.py"),
        (["recipe=smoke", "seed"], "1234", "the default in src/slm/recipe.py"),
        (["recipe=smoke", "to=shards", "stop"], "shards", "the command line (to=shards)"),
        (["recipe=smoke", "model={layers: 1}", "model.layers"], "1", "the command line (model={layers: 1})"),
        (["recipe=smoke", "train.schedule.warmup_tokens"], "4096", str(SMOKE)),
        (["recipe=smoke", "corpus.sources.max_documents"], "[60]", str(SMOKE)),
        (["recipe=smoke", "corpus.sources.kind"], "[stdlib]", str(SMOKE)),
        (["recipe=smoke", "model.rope_scaling.factor"], "null", "the default in src/slm/model/config.py"),
        ([*BIG, "model.layers"], "24", str(PIECES / "300m.yaml")),
        ([*SMALL, "model.layers"], "4", str(PIECES / "15m.yaml")),
        ([*SMALL, "model.layers=6", "model.layers"], "6", "the command line (model.layers=6)"),
        ([*BIG, "train.tokens"], "10000000000", str(shipped_folder("recipes") / "pretrain_300m" / "config.yaml")),
    ],
)  # fmt: skip
def test_a_value_is_shown_with_the_layer_that_set_it(words: list[str], value: str, layer: str) -> None:
    first, second, *_ = explain(words).splitlines()
    assert first == f"{words[-1]} = {value}"
    assert second == f"  from {layer}"


def test_the_default_and_the_meaning_follow() -> None:
    assert explain(["recipe=smoke", "model.layers"]).splitlines()[2:] == ["  default 4", "  Blocks."]
    assert explain(["recipe=smoke", "model.norm_eps"]).splitlines()[2:] == ["  Added to the mean square in RMSNorm."]


def test_a_section_is_shown_whole() -> None:
    assert explain(["recipe=smoke", "train.schedule"]).startswith(
        "train.schedule = {decay_fraction: 0.2, final_lr_fraction: 0.0, kind: wsd, warmup_tokens: 4096}"
    )


def test_a_list_of_records_is_shown_whole_and_compared_with_the_default() -> None:
    lines = explain(["recipe=smoke", "corpus.sources"]).splitlines()
    assert "max_documents: 60" in lines[0]
    assert lines[2].startswith("  default [{")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["recipe=smoke"], "usage: slm explain recipe=NAME"),
        (["train.tokens", "model.layers"], "usage: slm explain recipe=NAME"),
        (["train.tokns"], "train.tokns: no such key; did you mean train.tokens or"),
        (["zzzz"], "zzzz: no such key; slm explain train shows a section's keys"),
        (["recipe=smok", "train.tokens"], "recipe=smok: no such recipe; did you mean smoke"),
    ],
)
def test_a_question_without_an_answer_is_refused(words: list[str], problem: str) -> None:
    with pytest.raises(ProblemsError) as caught:
        explain(words)
    assert str(caught.value).startswith(problem)


def test_a_recipe_of_the_users_own_is_named_as_the_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "recipes" / "mine" / "config.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("run: mine\nseed: 5\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert explain(["recipe=mine", "seed"]).splitlines()[:2] == ["seed = 5", f"  from {file}"]
